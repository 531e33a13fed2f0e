"""The preStop hook of a Ray pod: `python -m medley.node.drain --deadline 240`.

Tells Ray that this node is going away, waits until Serve has nothing left on it, and exits. Then Kubernetes sends
SIGTERM.
Ray places nothing new here, Serve starts each replica elsewhere before it stops the one here, and the node's proxy
answers 503 to the readiness probe and finishes what it has.

The deadline must be less than `terminationGracePeriodSeconds`, and more than `graceful_shutdown_timeout_s` of every
deployment plus the time that a replica takes to start: a replica whose grace does not fit in the time that is left is
stopped at once, before there is another.

If Ray's head is away, it is asked again and again. Until it answers nobody takes the replicas away, so the hook goes by
the requests on this node: Ray's metrics count them. It ends when there has been none for a while.

Exit code 0: nothing is left, or the deadline is over; 1: several Ray nodes run here. A sentence on stderr says which.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
RAY = str(Path(sys.executable).parent / "ray")
# As Ray and HAProxy name their processes.
SERVE = ("ray::ServeReplica", "ray::HAProxyManager", "ray::ProxyActor", "haproxy")
LOOK_S = 0.5
# How long the head may take to accept, and how long after it has not it is asked again.
ASK_S, ASK_AGAIN_S = 30.0, 15.0
# Requests that replicas, the router's too, work on. Ray publishes them every ten seconds: a none may be so old, and a
# request that has come since is seen with the next but one.
SERIES = ("ray_serve_replica_processing_queries", "ray_medley_requests_in_flight")
UNDER_WAY = re.compile(rf"^(?:{'|'.join(SERIES)})\{{.*\}} (\S+)$", re.MULTILINE)
METRICS_PORT, QUIET_S = 8080, 25.0


class NotDrained(Exception):
    """The message says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """The Ray node of this pod, as its raylet was started. `head_address` is host and port of Ray's head."""

    id: str
    head_address: str
    is_head: bool


def command_lines(proc: Path = PROC) -> list[list[str]]:
    """Of every process of this pod."""
    found = []
    for file in proc.glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if words != [""]:
            found.append(words)
    return found


def ray_node(lines: Sequence[Sequence[str]]) -> RayNode | None:
    """The Ray node among the processes; None if there is none.

    Raises:
        NotDrained: there are several, so this is no pod.
    """
    nodes = []
    for words in lines:
        if Path(words[0]).name == "raylet":
            flags = {flag: value for flag, _, value in (word.partition("=") for word in words)}
            nodes.append(RayNode(flags["--node_id"], flags["--gcs-address"], "--head" in flags))
    if len(nodes) > 1:
        raise NotDrained(f"{len(nodes)} Ray nodes run here; a pod has one, so none was drained.")
    return nodes[0] if nodes else None


def ask_to_drain(node: RayNode, deadline_s: float, ray: str = RAY) -> None:
    """Tell Ray's head that the node is going away.

    Raises:
        NotDrained: it refuses, or does not answer.
    """
    command = [
        ray, "drain-node", "--address", node.head_address, "--node-id", node.id,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "The pod is being stopped.",
        "--deadline-remaining-seconds", str(int(deadline_s)),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=min(ASK_S, deadline_s))
    except subprocess.TimeoutExpired:
        raise NotDrained(f"Ray's head at {node.head_address} did not answer in time.") from None
    except OSError as error:
        raise NotDrained(f"{ray} cannot be run: {error.strerror}.") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it does not say why"]
        raise NotDrained(f"Ray's head at {node.head_address} did not take the drain: {last[0]}")


def left_of_serve(lines: Sequence[Sequence[str]]) -> int:
    """How many processes of Serve there are: replicas, and the proxy that may still hold streams of others."""
    return sum(Path(words[0]).name.startswith(SERVE) for words in lines)


def wait_until_empty(end: float, proc: Path = PROC) -> int:
    """Wait until Serve has nothing here, or until `end` (time.monotonic). Returns how many processes are left."""
    while (left := left_of_serve(command_lines(proc))) and time.monotonic() < end:
        time.sleep(LOOK_S)
    return left


def requests_here(port: int) -> float | None:
    """How many requests are under way on this node, by the metrics that Ray publishes here. None if nobody says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if answer.status != 200 or "\nray_" not in text:
        return None
    return sum(float(number) for number in UNDER_WAY.findall(text))  # a replica that was never asked has no series


@dataclass(slots=True)
class Quiet:
    """Since when nothing has been under way here."""

    port: int
    since: float | None = None

    def lasts(self) -> bool:
        if requests_here(self.port) != 0:  # some, or nobody says
            self.since = None
            return False
        self.since = time.monotonic() if self.since is None else self.since
        return time.monotonic() - self.since >= QUIET_S


def ask_until_taken(node: RayNode, end: float, port: int, proc: Path, ray: str) -> str:
    """Ask the head until it takes the drain, or until there is no need of it any more.

    Returns:
        Empty when it has taken the drain; else why it is not needed, or that the time is over, in a sentence.
    """
    quiet, ask_next, why = Quiet(port), 0.0, ""
    while (now := time.monotonic()) < end:
        if not left_of_serve(command_lines(proc)):
            return f"{why} Nothing of Serve is left on this node.".strip()
        if now >= ask_next:
            try:
                ask_to_drain(node, end - now, ray)
                return ""
            except NotDrained as reason:
                why, ask_next = str(reason), time.monotonic() + ASK_AGAIN_S
        if quiet.lasts():
            return f"{why} No request has been under way here for {QUIET_S:g} s."
        time.sleep(LOOK_S)
    return f"{why} The deadline is over."


def drain(deadline_s: float, proc: Path = PROC, ray: str = RAY, metrics_port: int = METRICS_PORT) -> str:
    """Drain the Ray node of this pod. Returns what came of it, in a sentence.

    Raises:
        NotDrained: there are several.
    """
    began = time.monotonic()
    node = ray_node(command_lines(proc))
    if node is None:
        return "No Ray node runs here, so there is nothing to drain."
    if node.is_head:
        return "This is Ray's head, which holds no replica: it is not drained."
    if not_taken := ask_until_taken(node, began + deadline_s, metrics_port, proc, ray):
        return not_taken
    left = wait_until_empty(began + deadline_s, proc)
    took = time.monotonic() - began
    if left:
        return f"The deadline of {deadline_s:g} s is over and {left} processes of Serve are left on this node."
    return f"The node is empty after {took:.0f} s."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m medley.node.drain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--deadline", type=float, required=True, help="seconds; less than the pod's terminationGracePeriodSeconds"
    )
    parser.add_argument("--metrics-port", type=int, default=METRICS_PORT, help="where Ray publishes metrics")
    given = parser.parse_args(arguments)
    try:
        print(drain(given.deadline, metrics_port=given.metrics_port), file=sys.stderr)  # noqa: T201
    except NotDrained as reason:
        print(reason, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
