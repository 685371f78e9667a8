"""The fleet as people see it: its jobs, its numbers, what waits and why, its health."""
