"""The flytekit tasks and ``create_batch``, for workflow authors."""
