"""What people ask about the fleet: which jobs there are, what waits and why, what is stuck."""
