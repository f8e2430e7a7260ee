"""A live run held against the twin: `python -m sim compare`, metrics 1 to 8 of docs/twin.md."""
