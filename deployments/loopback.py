"""Replicas listen where their node does.

Serve lets other replicas call a replica on a port that is open on all interfaces. On a node with a loopback address, as
`medley up` starts it, nobody else can have business there.
"""

from __future__ import annotations

import ray
from ray.serve._private import replica

OPEN, LOOPBACK = "[::]:0", "127.0.0.1:0"


def listen_where_the_node_does() -> None:
    """Called in a replica before it is ready, which is when Serve opens the port."""
    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    original = replica.add_port_to_grpc_server

    def on_loopback(server, address):
        return original(server, LOOPBACK if address == OPEN else address)

    replica.add_port_to_grpc_server = on_loopback
