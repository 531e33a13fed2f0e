"""What holds on a node that listens on loopback only, as `medley up` starts it.

Serve lets other replicas call a replica on a port that is open on all interfaces. Here nobody else can have business
there. And only names of this machine lead here rightly.
"""

from __future__ import annotations

import ray
from ray.serve._private import replica

OPEN, LOOPBACK = "[::]:0", "127.0.0.1:0"
LOCAL_NAMES = ("localhost", "*.localhost")


def on_loopback() -> bool:
    return ray.util.get_node_ip_address() == "127.0.0.1"


def listen_where_the_node_does() -> None:
    """Called in a replica before it is ready, which is when Serve opens the port."""
    if not on_loopback():
        return
    original = replica.add_port_to_grpc_server

    def add_port(server, address):
        return original(server, LOOPBACK if address == OPEN else address)

    replica.add_port_to_grpc_server = add_port
