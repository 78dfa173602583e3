"""Train an LSTM on GLUE or your own data, reading only the words worth it, evaluate it, and write records/LSTM/."""

from typing import Literal

from pruner import run_script
from pruner.experiments import demo_settings

# Data
tasks = ["sst-2", "mrpc", "qqp", "mnli"]  # those that are prepared of these (published), and your own
cache = "cache/lstm"  # what PrepareGlue4Lstm.py wrote
vectors: str | None = None  # pretrained vectors in GloVe's text format, as "glove.6B.300d.txt"; None: random ones

# Model
embedding_size = 300  # width of the words' vectors (published: 300)
hidden_size = 300  # width of the LSTM's state (published: 300)
num_layers = 1  # LSTMs on top of each other (published: 1)
head_size = 256  # hidden width of the classifier (published: 256)

# Pruning
pruning_methods = ["student", "gate", "random", "head", "tail", "frequency"]  # one after the other
target_prune_rate: list[float] = [0.9]  # the share of a sentence's words that are dropped (published: 0.9), or several
pruning_rate_start: float | None = None  # while training, it grows linearly from here to the target; None: constant
count: Literal["real", "padded"] = "real"  # what a rate counts: real words, or padded, the published code's counting
student_widths = [300, 300]  # hidden widths of the student's MLP (published: 300, 300)

# Training
seeds = [1]  # one training per task, method and seed
epochs: float = 3.0  # passes over the training set (published: 3)
batch_size: int | None = None  # sentences per optimizer step; None: as published, 256, and 64 for MRPC
accumulation_steps = 1  # parts that a step is computed in, where memory is short
learning_rate = 1e-3  # of the LSTM, constant (published: 1e-3)
student_learning_rate = 1e-3  # of the student (published: 1e-3)
clip: float | None = None  # largest gradient norm; None: no clipping
train_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # mixed precision; auto: a GPU's best, float32 on a CPU
max_train_rows: int | None = None  # train on a random subset of that many rows; None: all

# Output
records = "records/LSTM"  # where the records go
save_models: str | None = None  # where to keep the models, one folder per record; None: models/ in the cache folder
discard_models = False  # do not keep them
tensorboard: str | None = None  # where to write TensorBoard's curves, one folder per training; None: there are none
predict_test = False  # write the test sets' predictions beside the records, as the GLUE server takes them
latency_repeats = 5  # interleaved timings of baseline and pruned model; the median counts
latency_batch_size: int | None = None  # sentences in a batch that is timed; None: as many as in training
latency_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of what is timed; auto: a GPU's best, float32 on a CPU

# What to run
demo = False  # run on a built-in sample task, a few minutes on two CPU cores
dry_run = False  # list cells, trainings and what they take on disk; train nothing
force = False  # run finished cells again and replace their records


def main() -> None:
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals(), demo_settings.LSTM)
    from pruner.experiments.lstm import run_lstm

    run_lstm(args, "PrepareGlue4Lstm.py")


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))
