"""Whether the promises were kept: pass, fail or inconclusive, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from loadtest.bounds import least_share, most_share, needed
from loadtest.counters import COUNTABLE, COUNTERS
from loadtest.health import Health
from loadtest.records import Record
from loadtest.targets import Targets

CONFIDENCE = 0.95
# The looks at a growing sample share the allowed error. Else one of them would be wrong more often than is stated.
MOST_LOOKS = 4


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Exit(IntEnum):
    """What a load test ends with, also under plain `locust`."""

    PASSED = 0
    FAILED = 1
    CONFIGURATION = 2
    INCONCLUSIVE = 3
    UNREACHABLE = 4
    HARNESS = 5


EXIT_OF = {Outcome.PASSED: Exit.PASSED, Outcome.FAILED: Exit.FAILED, Outcome.INCONCLUSIVE: Exit.INCONCLUSIVE}


@dataclass(frozen=True, slots=True)
class Judged:
    """One rule and what became of it.

    Attributes:
        rule: "goodput" or the name of a counter. subject: the model, or "" for the whole run.
        value, bound, wanted: of the rule; bound is the confidence bound that was compared.
    """

    rule: str
    subject: str
    outcome: Outcome
    why: str
    value: float
    bound: float
    wanted: float


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    rules: tuple[Judged, ...]
    health: Health

    @property
    def exit(self) -> Exit:
        return EXIT_OF[self.outcome]


def judge(
    records: Sequence[Record],
    targets: Mapping[str, Targets],
    health: Health,
    *,
    looks: int = 1,
    counters: Sequence[str] = tuple(COUNTERS),
    shares: Mapping[str, float] | None = None,
    refusals_count: bool = True,
) -> Verdict:
    """Judge attempts by the promises for their models.

    Args:
        looks: how often this sample is judged while it grows.
        counters: which of COUNTABLE must be zero.
        shares: by subject (see Record), the share that must be good where a scenario asks for another than is promised.
        refusals_count: attempts that were refused in time count as bad; else they are left out, for scenarios that are
            meant to be refused in part.
    """
    rules = [count(name, COUNTABLE[name], records) for name in counters]
    subjects: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if not record.left and (refusals_count or not record.refused):
            subjects[record.subject].append(record)
    for subject, attempts in sorted(subjects.items()):
        promise = targets[attempts[0].model]
        rules.append(goodput(subject, attempts, promise, (shares or {}).get(subject, promise.good), looks))
    return Verdict(outcome_of(rules, health), tuple(rules), health)


def count(name: str, fault: Callable[[Record], str], records: Sequence[Record]) -> Judged:
    found = [(record, why) for record in records if (why := fault(record))]
    why = "; ".join(f"{record.id}: {why}" for record, why in found[:3])
    return Judged(name, "", Outcome.FAILED if found else Outcome.PASSED, why, len(found), len(found), 0)


def goodput(subject: str, attempts: Sequence[Record], targets: Targets, wanted: float, looks: int) -> Judged:
    """Whether the share of good attempts is surely at least the promised one, or surely below it."""
    missed = [why for record in attempts if (why := targets.miss(record))]
    good, of = len(attempts) - len(missed), len(attempts)
    confidence = 1 - (1 - CONFIDENCE) / looks
    low, high = least_share(good, of, confidence), most_share(good, of, confidence)
    share = good / of
    if low >= wanted:
        outcome, bound, why = Outcome.PASSED, low, ""
    elif high < wanted:
        outcome, bound, why = Outcome.FAILED, high, commonest(missed)
    else:
        more = needed(wanted, confidence, len(missed))
        why = f"{of} attempts prove nothing: with {len(missed)} misses {more} would" + (
            f"; {commonest(missed)}" if missed else ""
        )
        outcome, bound = Outcome.INCONCLUSIVE, low
    return Judged("goodput", subject, outcome, why, share, bound, wanted)


def commonest(missed: Sequence[str]) -> str:
    """What most of the misses have in common."""
    kinds = Counter(why.split(" ")[0] for why in missed)
    ((kind, times),) = kinds.most_common(1)
    example = next(why for why in missed if why.startswith(kind))
    return f"{times} of {len(missed)} misses: {example}"


def outcome_of(rules: Sequence[Judged], health: Health) -> Outcome:
    """A counter above zero is a fault of the server, however unhealthy the generator was. Apart from that, an unhealthy
    generator leaves everything open: it may have made the server look slow, or have sent it too little."""
    hard = [rule.outcome for rule in rules if rule.rule != "goodput"]
    soft = [rule.outcome for rule in rules if rule.rule == "goodput"]
    if Outcome.FAILED in hard:
        return Outcome.FAILED
    if not soft or health.ill:
        return Outcome.INCONCLUSIVE
    if Outcome.FAILED in soft:
        return Outcome.FAILED
    return Outcome.INCONCLUSIVE if Outcome.INCONCLUSIVE in soft else Outcome.PASSED
