"""What ``--demo`` puts in place of the run scripts' constants: the same code on the built-in sample task."""

# A small BERT of 3 layers, which starts from scratch: 3 epochs are not enough for every seed.
BERT = {
    "tasks": ["demo"],
    "bert": "cache/demo/bert",
    "cache": "cache/demo",
    "pruning_schedule": [0.8, 0.4, 0.4],  # in each layer, so that one sees tokens leave
    "pruning_methods": "student,attention,emission,gradient,random,head,tail,frequency,winning-ticket",
    "ticket_levels": [50.0],
    "learning_rate": 1e-3,
    "epochs": 4.0,
}
# Smaller batches and more epochs, since there is less data.
LSTM = {"tasks": ["demo"], "cache": "cache/demo-lstm", "batch_size": 32, "epochs": 6.0}
