"""Time the pruned BERT against the unpruned one, or fine-tuning: python -m pruner.measure --random 6x384 --lengths 9"""

from typing import Literal

from pruner import run_script

# Model: one of these
weights: str | None = None  # a BERT: a folder, or a model of the hub
random: str | None = None  # a BERT of random weights, as 12x768: layers x width

# Sentences: one of these
task: list[str] | None = None  # the dev sets of prepared tasks
lengths: list[str] | None = None  # random sentences of 128 tokens, as 128, or of all lengths between, as 16-112

# Pruning
pruning_methods = ["none", "student", "attention"]  # of BERT, in turn; none, int8, torchao-int8: nothing pruned
pruning_schedule: list[list[float]] = [[0.2]]  # one rate for all layers, or one per layer, as 0.5,0,0; or several such
kept: list[str] | None = None  # folders of kept models, or of records of smaller ones: these against --weights
student_widths = [64, 64]  # hidden widths of the students' MLPs; an empty list: linear

# Training
training = False  # time fine-tunings on --task instead: ours, and stock Trainer's with and without grouping by length

# Timing
batch_sizes = [32]  # sentences per batch
dtypes: list[Literal["float32", "bfloat16", "float16"]] = ["float32"]  # one after the other
device: str | None = None  # cpu or cuda; None: cuda where there is a GPU
repeats = 7  # interleaved timings of both models; the median counts

# Files
cache = "cache/bert"  # what PrepareGlue4Bert.py wrote
json: str | None = None  # where the result goes; None: a file in records/speed/


def main() -> None:
    from pruner.utils.flags import parse_flags

    args = parse_flags(globals())
    from pruner.measure.speed import measure_and_write

    measure_and_write(args)


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))
