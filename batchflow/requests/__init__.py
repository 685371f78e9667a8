"""The requests of a batch: the JSONL file that holds them, and their results."""
