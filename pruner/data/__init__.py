"""Tasks and their data, from files to batches. The built-in tasks are registered as soon as any of it is imported."""

from pruner.data.agnews import AGNEWS
from pruner.data.glue import GLUE
from pruner.data.sample import SAMPLE
from pruner.data.task import register_task

for task in (*GLUE, AGNEWS, SAMPLE):
    register_task(task)
