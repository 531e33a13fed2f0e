"""The highest rate at which the promises hold, between two rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

STEP = 1.6
MOST_PROBES = 14


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried.

    Attributes:
        holds: the test passed; None if it was inconclusive.
        goodput: good requests per second, of all models. share: of attempts that were good.
    """

    rate: float
    holds: bool | None
    goodput: float
    share: float
    first_token_p95_s: float | None = None

    @classmethod
    def of(cls, rate: float, document: dict[str, Any]) -> Self:
        good, attempts = (sum(one[key] for one in document["models"]) for key in ("good", "attempts"))
        first = [one["figures"].get("time_to_first_token_s", {}).get("p95") for one in document["models"]]
        holds = {"passed": True, "failed": False}.get(document["outcome"])
        return cls(rate, holds, good / document["seconds"], good / attempts, next(filter(None, first), None))


@dataclass(slots=True)
class Found:
    """
    Attributes:
        low: the highest rate that held, None if none did. high: the lowest that did not, None if all held.
        probes: in the order they were tried.
    """

    low: float | None = None
    high: float | None = None
    probes: list[Probe] = field(default_factory=list)

    @property
    def monotone(self) -> bool:
        """No rate held that is above one that did not."""
        held = [probe.rate for probe in self.probes if probe.holds]
        broke = [probe.rate for probe in self.probes if probe.holds is False]
        return not held or not broke or max(held) < min(broke)

    def words(self) -> str:
        doubt = (
            ""
            if self.monotone
            else " A higher rate held than one that did not: the machine is noisy, or the server is."
        )
        if self.low is None:
            return f"Not even {self.high:.3g} requests a second keep the promises.{doubt}"
        if self.high is None:
            return f"{self.low:.3g} requests a second keep the promises, and no limit was reached.{doubt}"
        return f"Between {self.low:.3g} and {self.high:.3g} requests a second the promises cease to be kept.{doubt}"


def search_for_rate(probe: Callable[[int, float], Probe], low: float, exactness: float) -> Found:
    """Go up from `low` by STEP until a rate breaks the promises, then halve between the last two. A rate that proves
    nothing is tried once more, with other requests, and counts as broken if it still does not hold: what is sought is
    what surely holds.

    Args:
        probe: tries a rate; is given a number, which differs each time.
        exactness: the bracket is narrow enough at this share of its lower end.
    """
    found, rate = Found(), low
    while len(found.probes) < MOST_PROBES:
        tried = probe(len(found.probes) + 1, rate)
        found.probes.append(tried)
        if tried.holds is None:
            tried = probe(len(found.probes) + 1, rate)
            found.probes.append(tried)
        if tried.holds:
            found.low = rate if found.low is None else max(found.low, rate)
        else:
            found.high = rate if found.high is None else min(found.high, rate)
        if found.high is None:
            rate *= STEP
        elif found.low is None:
            if rate < low / 8:
                break
            rate /= STEP
        elif found.high <= found.low * (1 + exactness):
            break
        else:
            rate = (found.low + found.high) / 2
    return found
