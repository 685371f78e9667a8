"""Calls to OpenAI: one client per credential, and errors of our own."""
