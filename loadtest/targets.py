"""What users are promised, as `slo.yaml` says it, and what of it a load test checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtest.counters import COUNTERS
from loadtest.records import Record

# The limits that requests can be held against here. `slo.yaml` may promise more.
LIMITS = (
    "time_to_first_token_s",
    "time_per_output_token_s",
    "time_to_first_audio_s",
    "real_time_factor",
    "duration_s",
)


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

    def miss(self, record: Record) -> str:
        """Why an attempt was not good, empty if it was."""
        if record.refused:
            return f"refused ({record.status})"
        if not record.answered:
            return record.why or "no answer"
        figures = record.figures()
        for name, limit in self.limits.items():
            if figures.get(name, 0.0) > limit:
                return f"{name} {figures[name]:.3g} over {limit:g}"
        return ""


@dataclass(frozen=True, slots=True)
class Promises:
    """One profile of `slo.yaml`. `never`: names of COUNTERS that must be nought."""

    name: str
    tasks: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    never: tuple[str, ...] = tuple(COUNTERS)

    def of(self, task: str, model: str) -> Targets:
        """Raises WrongTargets: nothing is promised for the task."""
        if task not in self.tasks:
            raise WrongTargets(f"the profile {self.name!r} promises nothing for {task}")
        found = self.tasks[task] | self.models.get(model.partition("@")[0], {}) | self.models.get(model, {})
        try:
            limits = {name: float(found[name]) for name in LIMITS if found.get(name) is not None}
            return Targets(limits, float(found["good"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WrongTargets(f"{self.name}: {task}: {error!r}") from None


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
    return Promises(profile, profiles[profile].get("tasks", {}), profiles[profile].get("models", {}), never)
