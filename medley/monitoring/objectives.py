"""The promises of slo.yaml, one by one, each with the PromQL that measures it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deployments.telemetry import (
    DURATION,
    ERRORS,
    FIRST_AUDIO,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    REAL_TIME_FACTOR,
    REQUESTS,
    Metric,
)
from medley.monitoring.promql import Matcher, bound, rate_by, series
from models.catalog import load_catalog
from models.errors import ModelNotDeployed, ServingError
from models.slo import Slo, Targets
from models.tasks import TASKS

AVAILABILITY = "availability"
# indicator -> the histogram that has it and the name of its limit in slo.yaml
LATENCIES: dict[str, tuple[Metric, str]] = {
    "time_to_first_token": (FIRST_TOKEN, "time_to_first_token_s"),
    "time_per_output_token": (OUTPUT_TOKEN, "time_per_output_token_s"),
    "time_to_first_audio": (FIRST_AUDIO, "time_to_first_audio_s"),
    "real_time_factor": (REAL_TIME_FACTOR, "real_time_factor"),
    "duration": (DURATION, "duration_s"),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A share of requests that must be good, for the models of a task or for one model.

    Attributes:
        matchers: choose those models' series of `metric`.
        share: of the requests, that must be good.
        limit: seconds; None for availability.
    """

    indicator: str
    metric: Metric
    task: str
    model: str | None
    matchers: tuple[Matcher, ...]
    share: float
    limit: float | None

    @property
    def labels(self) -> dict[str, str]:
        """Of the series that are recorded of it; those tell it from every other objective."""
        return {"indicator": self.indicator, "promise": self.model or self.task}

    @property
    def budget(self) -> float:
        """The share of requests that may be bad."""
        return round(1 - self.share, 9)

    def requests(self, window: str) -> str:
        """Requests per second, by model."""
        return rate_by("model", self.metric, *self.matchers, part="" if self.limit is None else "_count", window=window)

    def bad(self, window: str) -> str:
        """Requests per second that are not good, by model. Zero, not nothing, where there is traffic and no error."""
        if self.limit is None:
            errors = rate_by("model", ERRORS, *self.matchers, ("code", "=~", server_errors()), window=window)
            return f"({errors} or {self.requests(window)} * 0)"
        within = ("le", "=", bound(self.limit))
        good = rate_by("model", self.metric, *self.matchers, within, part="_bucket", window=window)
        return f"({self.requests(window)} - {good})"

    def burn(self, window: str) -> str:
        """How many times faster than the budget allows requests are bad."""
        return f"{self.bad(window)} / {self.requests(window)} / {self.budget}"

    def limit_line(self) -> str:
        """The limit as a series for each model that has had requests."""
        return f"count by (model) ({series(self.metric, *self.matchers, part='_count')}) * 0 + {self.limit}"


def server_errors() -> str:
    """A pattern of the codes that break the promise. For a model that is not deployed nothing is promised."""
    codes = {error.code for error in _tree(ServingError) if error.status >= 500}
    return "|".join(sorted(codes - {ModelNotDeployed.code}))


def _tree(error: type[ServingError]) -> Iterator[type[ServingError]]:
    yield error
    for child in error.__subclasses__():
        yield from _tree(child)


def objectives(slo: Slo, profile: str) -> list[Objective]:
    """Every promise of a profile.

    Raises:
        ValueError: a limit is no bucket bound; KeyError: no such profile.
    """
    promises = slo.profile(profile)
    found = []
    for task in TASKS:
        if (targets := promises.of_task(task)) is None:
            continue
        differing = [model for model in promises.models if load_catalog()[model].task is task]
        everyone_else = tuple(("model", "!~", _with_variants(model)) for model in differing)
        found += _objectives_of(targets, task.name, None, everyone_else)
        for model in differing:
            found += _objectives_of(
                promises.of_model(model), task.name, model, (("model", "=~", _with_variants(model)),)
            )
    return found


def _with_variants(model: str) -> str:
    """A pattern of the model's name and of each `model@variant`."""
    return f"{model}(@.+)?"


def _objectives_of(
    targets: Targets, task: str, model: str | None, matchers: tuple[Matcher, ...]
) -> Iterator[Objective]:
    for indicator, (metric, field) in LATENCIES.items():
        limit: float | None = getattr(targets, field)
        if limit is not None:
            _check_limit(metric, task, field, limit)
            chosen = _of_task(metric, task) + matchers
            yield Objective(indicator, metric, task, model, chosen, targets.good, limit)
    chosen = _of_task(REQUESTS, task) + matchers
    yield Objective(AVAILABILITY, REQUESTS, task, model, chosen, targets.availability, None)


def _of_task(metric: Metric, task: str) -> tuple[Matcher, ...]:
    """A metric without the label is of one task's models only."""
    return (("task", "=", task),) if "task" in metric.labels else ()


def _check_limit(metric: Metric, task: str, field: str, limit: float) -> None:
    if limit not in metric.buckets:
        nearest = min(metric.buckets, key=lambda bucket: abs(bucket - limit))
        raise ValueError(
            f"slo.yaml: {field} of {task} is {limit:g}, which is no bucket bound of {metric.name}, so the share "
            f"below it cannot be read. The nearest bound is {nearest:g}."
        )
