"""Sequence Pruning: what the scripts share. The rooms are described in README.md beside this file."""

__version__ = "2.0.0"
STOPPED = "stopped: run the same command again, finished work is kept"
