"""Fine-tune a BERT on GLUE, AG News or your own data while pruning tokens, evaluate it, and write records/BERT/."""

import sys

from pruner.utils.errors import run_script

task_names = ["cola", "sst-2", "mrpc", "qqp", "sts-b", "mnli", "qnli", "rte", "wnli", "agnews"]  # and your own
pruning_methods = ["student", "attention", "emission", "gradient", "random", "head", "tail", "frequency"]  # in turn
pruning_schedule = [0.6] + [0.0] * 11  # one rate per layer: the share of real tokens dropped before it (published)
target_flops_reduction = None  # in its place a budget, as 2.0, or several: the schedule is made to meet it
budget_schedule = "learned"  # how: learned, uniform (rates), first (layer alone), or soft-extract, PoWER-BERT's search
search_penalty = None  # or a schedule by PoWER-BERT's search and its lambda, without a budget (published: 1e-4 to 7e-3)
search_reach = 4.0  # the largest budget that a search or a training with sampled schedules serves
soft_extract_learning_rate = 3e-3  # of PoWER-BERT's search (published: 1e-4 to 1e-2)
start = None  # pretrained (published), finetuned: the baseline trained again, sampled: so with sampled schedules, once
teacher = "emission"  # whom students imitate: emission or gradient
count = "real"  # what a rate counts: real tokens, or "padded", the published code's counting
seeds = [1]  # one fine-tuning per task, method and seed
epochs = 3.0  # passes over the training set (published: 3)
batch_size = 32  # sentences per optimizer step (published: 32)
accumulation_steps = 1  # parts that a step is computed in, where memory is short
learning_rate = 2e-5  # of BERT, decaying linearly to 0 (published: 2e-5)
student_learning_rate = 1e-3  # of the students (published: 1e-3)
student_widths = [64, 64]  # hidden widths of their MLPs (published: twice that of the model); an empty list: linear
clip = 1.0  # largest gradient norm (published: 1.0)
train_dtype = "auto"  # of mixed precision; auto: what a GPU does best, float32 on a CPU; or float32, bfloat16
max_train_rows = None  # train on a random subset of that many rows; None: all
latency_repeats = 5  # interleaved timings of baseline and pruned model; the median counts
bert = "bert"  # the pre-trained model: a folder, or a model of the hub
cache_folder = "cache/bert"  # what PrepareGlue4Bert.py wrote
records_folder = "records/BERT"  # where the records go
models_folder = None  # where to keep the fine-tuned models, one folder per record; None: models/ in the cache folder
discard_models = False  # do not keep them (a BERT-Base has 0.4 GB)
tensorboard_folder = None  # where to write TensorBoard's curves, one folder per training; None: there are none
predict_test = False  # write the test sets' predictions beside the records, as the GLUE server takes them
force = False  # run finished cells again and replace their records


def main() -> None:
    from pruner.experiments.bert_run import (  # in here, so that run_script sees to what goes wrong in it
        parse_arguments,
        run_bert,
    )

    run_bert(parse_arguments(__doc__, globals(), sys.argv[1:]), task_names)


if __name__ == "__main__":
    run_script(main, packages=("torch", "transformers"))
