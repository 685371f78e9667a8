"""Batches, files and webhook deliveries: what the API operates on."""
