"""Hosts in URLs and addresses."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is the loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
