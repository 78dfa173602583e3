"""Train an LSTM on GLUE or your own data, reading only the words worth it, evaluate it, and write records/LSTM/."""

import sys

from pruner.data.task import TASKS
from pruner.utils.errors import run_script

task_names = ["sst-2", "mrpc", "qqp", "mnli"]  # which of GLUE (published), then your own; skipped if not prepared
pruning_methods = ["student", "gate", "random", "head", "tail", "frequency"]  # one after the other
target_prune_rate = 0.9  # the share of a sentence's words that are dropped (published: 0.9), or a list of shares
pruning_rate_start = None  # while training, the rate grows linearly from here to the target; None: it is constant
count = "real"  # what a rate counts: real words, or "padded", the published code's counting
seeds = [1]  # one training per task, method and seed
epochs = 3.0  # passes over the training set (published: 3)
batch_size = None  # sentences per optimizer step; None: as published, 256, and 64 for MRPC
accumulation_steps = 1  # parts that a step is computed in, where memory is short
learning_rate = 1e-3  # of the LSTM, constant (published: 1e-3)
student_learning_rate = 1e-3  # of the student (published: 1e-3)
clip = None  # largest gradient norm; None: no clipping
student_widths = [300, 300]  # hidden widths of the student's MLP (published: 300, 300)
embedding_size = 300  # width of the words' vectors (published: 300)
hidden_size = 300  # width of the LSTM's state (published: 300)
num_layers = 1  # LSTMs on top of each other (published: 1)
head_size = 256  # hidden width of the classifier (published: 256)
vectors = None  # a file of pretrained vectors in GloVe's text format, as "glove.6B.300d.txt"; None: random ones
train_dtype = "auto"  # of mixed precision; auto: what a GPU does best, float32 on a CPU; or float32, bfloat16
max_train_rows = None  # train on a random subset of that many rows; None: all
latency_repeats = 5  # interleaved timings of baseline and pruned model; the median counts
cache_folder = "cache/lstm"  # what PrepareGlue4Lstm.py wrote
records_folder = "records/LSTM"  # where the records go
models_folder = None  # where to keep the trained models, one folder per record; None: models/ in the cache folder
discard_models = False  # do not keep them
tensorboard_folder = None  # where to write TensorBoard's curves, one folder per training; None: there are none
predict_test = False  # write the test sets' predictions beside the records, as the GLUE server takes them
force = False  # run finished cells again and replace their records


def main() -> None:
    from pruner.experiments.lstm_run import (  # in here, so that run_script sees to what goes wrong in it
        parse_arguments,
        run_lstm,
    )

    tasks = {name: task for name, task in TASKS.items() if task.labels}
    args = parse_arguments(__doc__, globals(), (*tasks, "or your own"), sys.argv[1:])
    run_lstm(args, tasks, task_names, "PrepareGlue4Lstm.py", with_own=True)


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))
