"""What became of each request, held against the promise, and the figures of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from loadtest.bounds import quantile
from models.slo import Targets

GOOD, LATE, REFUSED, GIVEN_UP, FAILED = "good", "late", "refused", "given up", "failed"
# Seconds within which a refusal comes.
REFUSAL_S = 0.05
# Of a request that could not be answered within the promise even alone. Trying again does not help.
BEYOND_PROMISE = "beyond_promise"


@dataclass(slots=True)
class Outcome:
    """One attempt. Times are seconds from when it was due, but for `due` itself.

    Attributes:
        number: of the request; a client that comes back makes another attempt of the same. back: how often it came.
        due: by the client's clock; when the run is over, by its schedule. sent: how late the client was.
        first: its first token. total: its end, of any kind.
        server_s: how long the server says it took until its answer began.
        local: refused by the client's own limiter.
        estimate: what the server said of it just before.
    """

    number: int
    due: float
    back: int = 0
    sent: float = 0.0
    first: float | None = None
    total: float = 0.0
    status: int = 0
    server_s: float = 0.0
    code: str = ""
    retry_after: float | None = None
    tokens: int = 0
    local: bool = False
    end: str = FAILED
    why: str = ""
    estimate: dict[str, Any] | None = None

    def answered(self, promise: Targets) -> None:
        """It has its whole answer: in time, or late."""
        kept = all(value <= getattr(promise, name) for name, value in self.figures(promise).items())
        self.end = GOOD if kept else LATE

    def figures(self, promise: Targets) -> dict[str, float]:
        """What is promised for this attempt, as it was; of one without an answer, as far as it came."""
        found = {"duration_s": self.total, "time_to_first_token_s": self.total if self.first is None else self.first}
        if self.first is not None and self.tokens > 1:
            found["time_per_output_token_s"] = (self.total - self.first) / (self.tokens - 1)
        return {name: value for name, value in found.items() if getattr(promise, name) is not None}

    def wait(self, promise: Targets) -> float:
        """The wait for the first piece, or for the answer where none is promised for it, as a multiple of the promise.
        A refusal that was long in coming counts as well: its client waited for it."""
        found = self.figures(promise)
        name = "time_to_first_token_s" if "time_to_first_token_s" in found else "duration_s"
        return found[name] / getattr(promise, name)


def figures(outcomes: Sequence[Outcome], seconds: float, promise: Targets) -> dict[str, Any]:
    """The figures of a run whose requests came within `seconds`. Shares are of requests, latencies of attempts.

    Of a good answer that is under way at the end of these seconds, goodput counts the part within them, as the closed
    loop does: otherwise a short run would favour whoever has fewer under way. A refusal is timed from when it was sent,
    so that it does not count if the client was late.
    """
    last = [list(attempts)[-1] for _, attempts in groupby(sorted(outcomes, key=by_request), key=lambda one: one.number)]
    ends = Counter(one.end for one in last)
    refused = [one for one in outcomes if one.end == REFUSED and not one.local]
    asked = [one for one in outcomes if not one.local]
    first = [one.first if one.first is not None else one.total for one in outcomes if one.end in (GOOD, LATE)]
    back = [one for one in outcomes if one.back]
    return {
        "requests": len(last),
        "good_per_s": sum(part_within(one, 0.0, seconds) for one in last if one.end == GOOD) / seconds,
        "good_share": ends[GOOD] / max(1, len(last)),
        **{end.replace(" ", "_"): ends[end] for end in (GOOD, LATE, REFUSED, GIVEN_UP, FAILED)},
        "refused_by": dict(Counter("the client" if one.local else one.code for one in last if one.end == REFUSED)),
        "refusals": len(refused),
        "refusal_p50_s": known(quantile([one.total - one.sent for one in refused], 0.5)),
        "refusal_p99_s": known(quantile([one.total - one.sent for one in refused], 0.99)),
        "refusal_server_p99_s": known(quantile([one.server_s for one in refused], 0.99)),
        "refusals_slow": sum(one.total - one.sent > REFUSAL_S for one in refused),
        "refusals_slow_server": sum(one.server_s > REFUSAL_S for one in refused),
        "without_retry_after": sum(one.retry_after is None and one.code != BEYOND_PROMISE for one in refused),
        "retry_after_p50_s": median([one.retry_after or 0.0 for one in refused]) if refused else None,
        "longest_wait": max((one.wait(promise) for one in asked), default=0.0),
        "first_p50_s": known(quantile(first, 0.5)),
        "first_p99_s": known(quantile(first, 0.99)),
        "came_back": len(back),
        "let_in_share": sum(one.end != REFUSED for one in back) / len(back) if back else None,
        "client_late_p99_s": known(quantile([one.sent for one in asked], 0.99)),
        "why": dict(Counter(one.why for one in outcomes if one.end == FAILED).most_common(3)),
    }


def part_within(one: Outcome, low: float, high: float) -> float:
    """The share of an attempt's time that lies between two moments."""
    return max(0.0, min(high, one.due + one.total) - max(low, one.due)) / max(one.total, 1e-9)


def by_request(one: Outcome) -> tuple[int, int]:
    return one.number, one.back


def known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def of_estimates(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """How near estimates were to what the answered requests then took, from when they were sent. An estimate that was
    not given is counted as unknown, and is not right by a factor of two."""
    found: dict[str, Any] = {}
    asked = [one for one in outcomes if one.estimate is not None]
    said_yes = [one.end != REFUSED for one in asked if one.estimate and one.estimate.get("admitted")]
    found["asked"] = len(asked)
    found["let_in_as_said"] = sum(said_yes) / len(said_yes) if said_yes else None
    answered = [one for one in asked if one.end in (GOOD, LATE)]
    for name, took in (("time_to_first_token_s", "first"), ("duration_s", "total")):
        pairs = [
            (one.estimate[name], getattr(one, took) - one.sent)
            for one in answered
            if one.estimate and getattr(one, took) is not None
        ]
        known = [(said, real) for said, real in pairs if said is not None]
        found[name] = {
            "answered": len(pairs),
            "unknown": len(pairs) - len(known),
            "median_error": median(abs(said - real) / real for said, real in known) if known else None,
            "within_two": sum(0.5 <= said / real <= 2 for said, real in known) / len(pairs) if pairs else None,
            "median_ratio": median(said / real for said, real in known) if known else None,
        }
    return found


@dataclass(frozen=True, slots=True)
class Criterion:
    """Something that must be so, and whether it was."""

    what: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def kept(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'kept  ' if self.kept else 'BROKEN'} {self.what}: {self.value:.3g} ({sign} {self.bound:g})"


def judged(ours: dict[str, Any], fixed: dict[str, Any] | None, returning: dict[str, Any] | None) -> list[Criterion]:
    """What admission must show, of the figures of its runs.

    Args:
        fixed: those of the best fixed concurrency. returning: those of a run whose clients come back.
    """
    found = []
    if fixed and fixed["good_per_s"]:
        ratio = ours["good_per_s"] / fixed["good_per_s"]
        found.append(Criterion("goodput : that of the best fixed concurrency", ratio, 0.9, at_least=True))
    found.append(Criterion("the longest wait : the promise", ours["longest_wait"], 2.0))
    if ours["refusals"]:
        found.append(Criterion("seconds to a refusal, p99", ours["refusal_p99_s"], REFUSAL_S))
    if returning and returning["came_back"]:
        share = returning["let_in_share"]
        found.append(Criterion("of those who came back when told, let in", share, 0.8, at_least=True))
    return found


def judged_estimates(found: dict[str, Any]) -> list[Criterion]:
    """What estimates must show, of what `of_estimates` found."""
    criteria = []
    for what, name in (("first token", "time_to_first_token_s"), ("whole answer", "duration_s")):
        error, within_two = found[name]["median_error"], found[name]["within_two"]
        criteria += [
            Criterion(f"{what}, median error of the estimate", math.inf if error is None else error, 0.25),
            Criterion(f"{what}, estimated within a factor of two", within_two or 0.0, 0.9, at_least=True),
        ]
    return criteria
