"""Whose machine a host is."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine for whoever asks for it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
