"""``/metrics``: what the whole fleet has counted in Redis."""
