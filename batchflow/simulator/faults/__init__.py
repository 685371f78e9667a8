"""Outages, and the responses that a client receives during one."""
