"""Who asks, and how urgently."""

import pytest
from starlette.requests import HTTPConnection

from deployments.router.callers import address_of, is_batch


@pytest.mark.parametrize(
    ("header", "batch"),
    [
        ("u=5", True),
        ("i, u=7", True),
        ("u=3", False),
        (None, False),
        ("u=x", False),
        ("u=\xb3", False),
        ("u=", False),
        ("=5", False),
    ],
)
def test_priority_is_read_as_its_rfc_says(header, batch):
    assert is_batch(header) is batch


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # anybody can send a header
        ("10.0.0.2", ["198.51.100.1"], "10.0.0.2"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),  # from our HAProxy
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["192.0.2.1", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["somebody"], "127.0.0.1"),
        ("127.0.0.1", ["1.2.3.4, 5.6.7.8"], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", [], "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", [], "2001:db8:1:3::/64"),
        ("testclient", ["198.51.100.1"], "unknown"),
        (None, ["198.51.100.1"], "unknown"),
    ],
)
def test_who_shares_is_an_address_that_the_client_cannot_choose(peer, told, address):
    headers = [(b"x-medley-client", one.encode()) for one in told] + [(b"authorization", b"Bearer invented")]
    scope = {"type": "http", "headers": headers, "client": peer and (peer, 4711)}
    assert address_of(HTTPConnection(scope)) == address
