"""What the scripts share. Imports flow one way:

errors -> select -> scores -> student -> schedule, teachers, flops -> (BERT), lstm -> batches, measure, metrics, train
-> records -> grid -> bert_cells, lstm_cells -> flags, lstm_run -> scripts

What reads and writes files stands beside that line: files, glue, agnews, download, tokenizer, words, quiet_tensorflow,
cache, encode, prepare, google, demo.
"""
