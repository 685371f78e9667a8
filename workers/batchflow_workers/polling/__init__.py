"""Polling of OpenAI: which jobs are due, and how to observe many batches with few calls."""
