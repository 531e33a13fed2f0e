"""What users are promised, as `slo.yaml` says it, and what of it a load test checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtest.counters import COUNTERS
from loadtest.records import BEYOND_PROMISE, Record

# The limits that requests can be held against here. `slo.yaml` may promise more.
LIMITS = (
    "time_to_first_token_s",
    "time_per_output_token_s",
    "time_to_first_audio_s",
    "real_time_factor",
    "duration_s",
)


# Why an answer has not the figure of a limit. One that is complete has a duration.
MISSING = {
    "time_to_first_token_s": "no text of it came in a stream",
    "time_per_output_token_s": "no text of it came in a stream, or nobody counted its tokens",
    "time_to_first_audio_s": "nothing of it came as sound",
    "real_time_factor": "nobody says how many seconds of sound there were",
}


class WrongTargets(ValueError):
    """The file cannot be read as promises; the message says why."""


@dataclass(frozen=True, slots=True)
class Targets:
    """
    Attributes:
        limits: by their names, all of which a good request keeps.
        good: the share of attempts that must be good.
    """

    limits: dict[str, float] = field(default_factory=dict)
    good: float = 0.99

    def longest_s(self, tokens: int) -> float:
        """How long an answer of so many tokens may take and be good, as far as the limits say it; else 0."""
        if "duration_s" in self.limits:
            return self.limits["duration_s"]
        written = tokens * self.limits.get("time_per_output_token_s", 0.0)
        return written + max(self.limits.get(name, 0.0) for name in ("time_to_first_token_s", "time_to_first_audio_s"))

    def miss(self, record: Record) -> str:
        """Why an attempt was not good, empty if it was. It begins with one word for what was missed.

        A limit whose figure an answer has not is not kept: what never came did not come in time. Only between the
        tokens of an answer of one token there is no time that could be too long.
        """
        if record.refused or record.beyond:
            return f"{BEYOND_PROMISE if record.beyond else 'refused'} ({record.status})"
        if record.given_up:
            return f"given_up ({record.why})"
        if not record.answered:
            return record.why or "no answer"
        figures = record.figures()
        for name, limit in self.limits.items():
            if name in figures:
                if figures[name] > limit:
                    return f"{name} {figures[name]:.3g} over {limit:g}"
            elif not (name == "time_per_output_token_s" and record.tokens == 1):
                return f"{name} was not kept: {MISSING[name]}"
        return ""


@dataclass(frozen=True, slots=True)
class Promises:
    """One profile of `slo.yaml`.

    Attributes:
        default: for tasks that are not among `tasks`; None if nothing is promised for those.
        models: what differs for a model from the promise for its task.
        never: names of COUNTERS that must be zero.
    """

    name: str
    tasks: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    never: tuple[str, ...] = tuple(COUNTERS)
    default: dict[str, Any] | None = None

    def of(self, task: str, model: str) -> Targets:
        """Raises WrongTargets: nothing is promised for the task."""
        of_task = self.tasks.get(task, self.default)
        if of_task is None:
            raise WrongTargets(f"the profile {self.name!r} promises nothing for {task}")
        found = of_task | self.models.get(model.partition("@")[0], {}) | self.models.get(model, {})
        try:
            limits = {name: _number(found[name]) for name in LIMITS if found.get(name) is not None}
            return Targets(limits, _number(found["good"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WrongTargets(f"{self.name}: {task}: {error!r}") from None


def _number(value: Any) -> float:
    """Raises ValueError: it is text, true or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def promises(file: Path, profile: str) -> Promises:
    """Raises WrongTargets."""
    try:
        document = yaml.safe_load(file.read_text())
        profiles = document["profiles"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise WrongTargets(f"{file} cannot be read as promises: {error}") from None
    if profile not in profiles:
        raise WrongTargets(f"{file} has no profile {profile!r}; it has {', '.join(sorted(profiles))}")
    never = tuple(document.get("never", COUNTERS))
    if unknown := set(never) - set(COUNTERS):
        raise WrongTargets(f"{file}, never: {', '.join(sorted(unknown))} is not among {', '.join(COUNTERS)}")
    chosen = profiles[profile]
    return Promises(profile, chosen.get("tasks", {}), chosen.get("models", {}), never, chosen.get("default"))
