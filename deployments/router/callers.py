"""Who asks, and how urgently."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

# RFC 9218, section 4.1: urgency from 0 to 7, 3 by default. From 5 on, a request counts as a batch job.
BATCH_URGENCY = 5
# Set by our HAProxy, in the place of any that a client sends.
ADDRESS_HEADER = "x-medley-client"
# A network of IPv6 belongs to one client, which may choose any address in it.
IPV6_NETWORK = 64


def address_of(request: HTTPConnection) -> str:
    """The address of a request's client; of IPv6, its network. "unknown" if nothing tells it.

    A client may send any header, so ADDRESS_HEADER counts only if it comes from a process of this machine.
    """
    peer = _address(request.client.host if request.client else None)
    if peer is not None and peer.is_loopback:
        peer = _address(next(reversed(request.headers.getlist(ADDRESS_HEADER)), None)) or peer
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((peer, IPV6_NETWORK), strict=False))
    return str(peer or "unknown")


def identity_of(request: HTTPConnection) -> str:
    """By what a client is known when it comes again, by whatever way: its key, or its address if it sends none. Nobody
    has checked it, so it may only tell equal requests apart."""
    return request.headers.get("authorization") or address_of(request)


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def is_batch(priority: str | None) -> bool:
    """Whether the header says `Priority: u=5` or more. Invalid values are ignored, as RFC 9218 requires."""
    for part in (priority or "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and value.isascii() and value.isdigit():  # "³" is a digit, too, but no number
            return int(value[:2]) >= BATCH_URGENCY
    return False
