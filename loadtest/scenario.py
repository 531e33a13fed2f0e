"""Scenarios: what is asked, how often, and what it proves. YAML in `loadtest/scenarios`, or a file of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from loadtest.arrivals import Arrival, Stage, of_stages
from loadtest.counters import COUNTABLE
from loadtest.verdict import MOST_LOOKS

FOLDER = Path(__file__).parent / "scenarios"
# A part for this task stands for one of each task that the server has and no other part names.
EVERY_OTHER = "*"


class WrongScenario(ValueError):
    """The message says what and where."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageRow(Strict):
    rate: float = Field(ge=0, description="requests per second; with `base`, times that")
    seconds: PositiveFloat
    to: float | None = Field(default=None, ge=0, description="reached in a straight line")


class Part(Strict):
    """One kind of requests of a scenario.

    Attributes:
        task: of Medley's, or EVERY_OTHER. model: one of that task, or any that is ready.
        share: of the arrivals, relative to the other parts.
        options: of the task's requests; see loadtest/tasks and loadtest/example.py.
        good: the share of attempts that must be good here, if not the promised one.
        tenant: whose requests they are, for fairness: the name of a key.
        returns: how often at most a client comes back with the same request when it is refused, each time when
            Retry-After says.
    """

    task: str
    model: str | None = None
    share: PositiveFloat = 1.0
    options: dict[str, Any] = {}
    good: float | None = Field(default=None, ge=0, lt=1)
    tenant: str = ""
    returns: int = Field(default=0, ge=0)


class Scenario(Strict):
    """
    Attributes:
        proves: in a sentence.
        stages: one after the other. burstiness: of the gaps; see arrivals.of_stages.
        looks: how often the sample is judged at most. While it proves nothing, it doubles.
        refusals_count: whether a refusal is a miss; if not, it is left out.
        counters: which must be zero, if not all that `slo.yaml` says must never happen.
        drain_s: how long a client waits for an answer at least. It waits longer where longer is promised: see
            schedule.Schedule.
    """

    name: str = ""
    proves: str
    stages: tuple[StageRow, ...] = Field(min_length=1)
    parts: tuple[Part, ...] = Field(min_length=1)
    burstiness: PositiveFloat = 1.0
    looks: PositiveInt = Field(default=1, le=MOST_LOOKS)
    refusals_count: bool = True
    counters: tuple[str, ...] | None = None
    drain_s: PositiveFloat = 60.0
    warm_up: int = Field(default=1, ge=0, description="requests to each model before the clock starts")

    @field_validator("counters")
    @classmethod
    def _can_be_counted(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := set(names or ()) - set(COUNTABLE):
            raise ValueError(f"{', '.join(sorted(unknown))} is not among {', '.join(COUNTABLE)}")
        return names

    @model_validator(mode="after")
    def _every_other_task_once(self) -> Self:
        every_other = [part for part in self.parts if part.task == EVERY_OTHER]
        if len(every_other) > 1 or any(part.model for part in every_other):
            raise ValueError(f"one part may have the task {EVERY_OTHER!r}, and it names no model")
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if all(not stage.rate and not stage.to for stage in self.stages):
            raise ValueError("every stage has a rate of 0")
        return self

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def arrivals(self, seed: int, rate: float | None, seconds: float | None) -> list[Arrival]:
        """The schedule for all looks there may be.

        Args:
            rate: in place of the scenario's own: its largest rate becomes this, and the others in proportion.
            seconds: in place of its own, all stages in proportion.
        """
        largest = max(max(stage.rate, stage.to or 0) for stage in self.stages)
        faster = rate / largest if rate else 1.0
        longer = seconds / self.seconds if seconds else 1.0
        stages = [
            Stage(one.rate * faster, one.seconds * longer, None if one.to is None else one.to * faster)
            for one in self.stages
        ]
        return of_stages(stages * 2 ** (self.looks - 1), seed, self.burstiness)


def load(name: str) -> Scenario:
    """By its name in `loadtest/scenarios`, or by the path of a file.

    Raises:
        WrongScenario
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.exists():
        raise WrongScenario(
            f"There is no scenario {name!r}. There are {', '.join(names())}; or give the path of a file."
        )
    try:
        return read({"name": file.stem} | yaml.safe_load(file.read_text()))
    except OSError as error:
        raise WrongScenario(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError, TypeError) as error:
        raise WrongScenario(f"{file}: {error}") from None


def read(document: dict[str, Any]) -> Scenario:
    """A scenario, strictly by the types of JSON: a quoted number is no number, and neither is `yes` or `.inf`.

    Raises:
        ValueError, TypeError: pydantic's own words, or what JSON cannot say, such as a date.
    """
    return Scenario.model_validate_json(json.dumps(document, allow_nan=False), strict=True)


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))
