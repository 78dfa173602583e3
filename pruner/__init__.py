"""What the scripts share. Imports flow one way:

errors -> packing -> select -> scores -> student -> schedule, flops -> bert_layers -> teachers -> (BERT), lstm
-> batches, evaluate, latency, metrics, train -> records -> grid -> bert_cells, lstm_cells -> flags, lstm_run, measure
-> scripts

What reads and writes files stands beside that line: files, glue, agnews, download, tokenizer, words, quiet_tensorflow,
cache, encode, prepare, google, demo.
"""
