"""What the scripts share. Imports flow one way:

errors -> select -> scores -> student -> schedule, flops -> (models) -> batches, train, measure -> records -> scripts
"""
