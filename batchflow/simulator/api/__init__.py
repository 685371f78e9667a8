"""The HTTP API: OpenAI's operations under `/v1`, and the control API under `/simulator`."""
