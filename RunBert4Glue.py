"""Fine-tune a BERT on GLUE, AG News or your own data while pruning tokens, evaluate it, and write records/BERT/."""

from typing import Literal

from pruner import run_script
from pruner.experiments import demo_settings

# Data and model
tasks = ["cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli", "agnews"]  # those prepared, and yours
bert = "bert"  # the pre-trained model: a folder, or a model of the hub
cache = "cache/bert"  # what PrepareGlue4Bert.py wrote

# Pruning
pruning_methods = ["student", "attention", "emission", "gradient", "random", "head", "tail", "frequency"]  # in turn
pruning_schedule: list[float] = [0.6] + [0.0] * 11  # one rate per layer: the share of real tokens dropped (published)
target_flops_reduction: list[float] | None = None  # a budget in its place, as 2.0, or several: schedules that meet it
target_speedup: list[float] | None = None  # of joint and calibrated: a budget of time, or several, on this machine
budget_schedule: Literal["learned", "uniform", "first", "soft-extract"] = "learned"  # how a budget is met
search_penalty: float | None = None  # or, without a budget, PoWER-BERT's search by its lambda (its paper: 1e-4 to 7e-3)
search_reach: float = 4.0  # the largest budget that a search or a training with sampled schedules serves
calibration_texts = 512  # of calibrated: training rows, without labels, by which it is chosen what leaves
soft_extract_learning_rate = 3e-3  # of PoWER-BERT's search (published: 1e-4 to 1e-2)
start: Literal["pretrained", "finetuned", "sampled"] | None = None  # pretrained is published; None: what a budget needs
teacher = "emission"  # whom students imitate: emission or gradient
count: Literal["real", "padded"] = "real"  # what a rate counts: real tokens, or padded, the published code's counting
student_widths = [64, 64]  # hidden widths of their MLPs (published: twice that of the model); an empty list: linear

# Width and depth
ticket_levels = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0]  # percent of heads that leave a ticket (published)
ticket_feed_forwards: list[int] | None = None  # how many whole feed-forwards leave at each level; None: as published
multi_task_levels = [10.0]  # of multi-task-tickets: the ticket_levels of the tasks in turn, or one for all
layers_dropped = [1, 2, 3]  # of layers-top and the like: how many layers leave
width_reduction = [1.5, 2.0]  # of width: budgets, by which factor heads and neurons that leave reduce the cost
width_cost: Literal["flops", "parameters"] = "flops"  # what that cost is: of the model, or parameters of its encoder
held_out: float | None = None  # share of the training rows by which a level is chosen; None: 0.1 with several levels

# Bits, teachers and zeros
embedding_rank = [128]  # of factorised: numbers that stand for a word
distil_share = 0.5  # of distil and the like: how much of the loss is the teacher's
distil_temperature = 2.0  # by which its logits, and the model's own, are divided
layers_trained = [2]  # of top-layers: how many are trained below the classifier; 0: none
sparsity = [0.8, 0.9, 0.95]  # of sparse: share of the encoder's weights that become zero
csr = False  # of sparse: with 90 % zeros or more, leave them out on a CPU, where that is faster
int8_embeddings = False  # of int8: word vectors too, which are half of a small model

# Training
seeds = [1]  # one fine-tuning per task, method and seed
epochs: float = 3.0  # passes over the training set (published: 3)
batch_size = 32  # sentences per optimizer step (published: 32)
accumulation_steps = 1  # parts that a step is computed in, where memory is short
learning_rate = 2e-5  # of BERT, decaying linearly to 0 (published: 2e-5)
student_learning_rate = 1e-3  # of the students (published: 1e-3)
clip: float | None = 1.0  # largest gradient norm (published: 1.0)
train_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # mixed precision; auto: a GPU's best, float32 on a CPU
max_train_rows: int | None = None  # train on a random subset of that many rows; None: all

# Output
records = "records/BERT"  # where the records go
save_models: str | None = None  # where to keep the models, one folder per record; None: models/ in the cache folder
discard_models = False  # do not keep them (a BERT-Base has 0.4 GB)
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

    args = parse_flags(globals(), demo_settings.BERT)
    from pruner.experiments.bert import run_bert

    run_bert(args)


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))
