"""What ``batchflow doctor`` checks: each part that Batchflow stands on, from this machine."""
