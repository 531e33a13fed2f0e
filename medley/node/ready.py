"""The readiness probe of a Ray pod: `python -m medley.node.ready`, on the head with `--without-proxy`.

Exit code 0: the node is well, and what is sent to its port 8000 is answered. 1: it is not, and stderr says why.

A node that is being drained, and one that runs no replica and so has no proxy, is not ready. With HAProxy,
`/-/healthz` is 200 as long as a router on any node is up (Serve's proxy on the head counts as one), and 503 from the
moment that Serve has taken up the drain. Both addresses stay open when Ray asks for tokens.
"""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Sequence

RAYLET = "/api/local_raylet_healthz"
PROXY = "/-/healthz"


class NotReady(Exception):
    """The message says what is not well, in a sentence."""


def check(what: str, port: int, path: str, timeout_s: float) -> None:
    """Ask one address of this machine.

    Raises:
        NotReady: it did not say 200 in time.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(200).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"{what} does not answer on port {port}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise NotReady(f"{what} says {answer.status}: {text or 'nothing more'}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m medley.node.ready", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--without-proxy", action="store_true", help="do not expect a Serve proxy here: for the head")
    parser.add_argument("--agent-port", type=int, default=52365, help="of Ray's dashboard agent")
    parser.add_argument("--proxy-port", type=int, default=8000, help="of Serve's proxy")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds, for each of the two")
    given = parser.parse_args(arguments)
    try:
        check("The raylet", given.agent_port, RAYLET, given.timeout)
        if not given.without_proxy:
            check("The proxy", given.proxy_port, PROXY, given.timeout)
    except NotReady as reason:
        print(reason, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
