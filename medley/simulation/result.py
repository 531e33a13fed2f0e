"""What a simulation found, as a row of a table."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = (
    "policy", "good", "refused", "first p50", "first p99", "replicas", "at most", "replica-seconds", "busy", "cost",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """
    Attributes:
        good: share of requests that were answered as promised. refused: requests that were never answered.
        refusals: each time that one was refused. wait: until the first piece, of those answered.
        replica_s: seconds of replicas, starting ones too. utilisation: share of these in which replicas were fully
        used. cost: replica_s by the price of an hour.
    """

    policy: str
    requests: int
    refused: int
    refusals: int
    beyond: int
    good: float
    wait_p50_s: float
    wait_p99_s: float
    replicas_mean: float
    replicas_most: int
    replica_s: float
    utilisation: float
    cost: float


def row(one: Result) -> list[str]:
    return [
        one.policy, f"{one.good:.2%}", str(one.refused), f"{one.wait_p50_s:.2f} s",
        f"{one.wait_p99_s:.2f} s", f"{one.replicas_mean:.1f}", str(one.replicas_most), f"{one.replica_s:.0f}",
        f"{one.utilisation:.0%}", f"{one.cost:.2f}",
    ]  # fmt: skip
