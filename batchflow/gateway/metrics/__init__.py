"""``/metrics`` for Prometheus: the whole fleet, from what Redis has counted."""
