"""What the scripts share. Imports flow one way:

errors -> packing -> select -> scores -> student -> schedule, flops -> bert_layers, outputs -> teachers -> (BERT), lstm
-> budget -> batches, evaluate, latency, metrics, trainer -> tensorboard -> train -> soft_extract, search, sampling
-> tables, records, steps, submission -> figures, figure_data, collection, report -> grid -> grid_run; bert_weights,
bert_cells, lstm_cells -> flags, bert_run, lstm_run, measure; readers, survivor_views, survivor_picture, survivors
-> scripts

What reads and writes files stands beside that line: files, processes, glue, agnews, own_task, own_table, download,
config, tokenizer, words, quiet_tensorflow, cache, encode, prepare, google, demo.
"""

import os
import sys
from pathlib import Path

STOPPED = "stopped: run the same command again, finished work is kept"

if "WORLD_SIZE" in os.environ:
    # DDP would warn that a step left out no parameter: some steps may. PyTorch reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _say_stopped(kind, error, trace) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


_script = getattr(sys.modules["__main__"], "__file__", None)
if _script and Path(_script).resolve().parent == Path(__file__).resolve().parent.parent:
    sys.excepthook = _say_stopped  # for Ctrl-C while it is still importing
