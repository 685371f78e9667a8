"""Calls to OpenAI: the client, tolerant parsing of responses, classification of errors."""
