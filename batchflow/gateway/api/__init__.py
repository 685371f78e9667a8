"""The status API and the stream of transitions."""
