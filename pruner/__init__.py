"""What the scripts share. Imports flow one way:

errors -> select -> scores -> student -> schedule, flops, teachers -> (models) -> batches, train, measure -> records
-> cells -> scripts

What reads and writes files stands beside that line: glue, download, tokenizer, cache, encode, google, demo.
"""
