"""What the scripts share. Imports flow one way:

errors -> packing -> select -> scores -> student -> schedule, flops -> bert_layers -> teachers -> (BERT), lstm
-> budget -> batches, evaluate, latency, metrics, train -> soft_extract, search, sampling -> records, tables, steps,
submission -> grid -> grid_run; bert_weights, bert_cells, lstm_cells -> flags, bert_run, lstm_run, measure -> scripts

What reads and writes files stands beside that line: files, glue, agnews, download, tokenizer, words, quiet_tensorflow,
cache, encode, prepare, google, demo.
"""
