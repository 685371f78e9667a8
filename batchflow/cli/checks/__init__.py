"""The checks of ``batchflow doctor``, made from this machine with its settings."""
