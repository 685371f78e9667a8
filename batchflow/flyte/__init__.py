"""The Flyte side: task classes and ``create_batch``, for workflow authors."""
