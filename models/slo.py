"""What users are promised: `slo.yaml` as types. All are frozen and refuse unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from models.catalog import load_catalog
from models.documents import read_yaml
from models.specs import ModelId, Spec, Task

Seconds = Annotated[float, Field(gt=0)]
# The alert for a budget that burns 14.4 times too fast must be reachable: below 1 - 1/14.4 = 0.931 it never is.
Share = Annotated[float, Field(ge=0.95, lt=1)]
# What load tests count (loadtest/verdict.py) and what fails them at once, because no slow machine explains it.
Counter = Literal["lost", "incomplete_streams", "server_errors", "wrong_answers", "refusals_without_retry_after"]


class Targets(Spec):
    """The promise for one task or model. A limit that is None is not promised."""

    time_to_first_token_s: Seconds | None = None
    time_per_output_token_s: Seconds | None = None
    duration_s: Seconds | None = None
    time_to_first_audio_s: Seconds | None = None
    real_time_factor: float | None = Field(default=None, gt=0, description="seconds of work for a second of audio")
    good: Share = Field(description="share of requests that keep each limit")
    availability: Share = Field(description="share of requests that end without a server error")


class Profile(Spec):
    """The promises of one kind of cluster."""

    tasks: dict[Task, Targets] = Field(min_length=1)
    models: dict[ModelId, dict[str, float]] = Field(default={}, description="what differs from the task's promise")

    @model_validator(mode="after")
    def _models_differ_in_what_there_is(self) -> Self:
        for model in self.models:
            if model not in load_catalog():
                raise ValueError(f"the catalog has no model {model!r}")
            if load_catalog()[model].task not in self.tasks:
                raise ValueError(f"{model} is for {load_catalog()[model].task}, for which nothing is promised")
            self.of_model(model)
        return self

    def of_model(self, model: str) -> Targets:
        """The task's promise, with what differs for this model of the catalog."""
        of_task = self.tasks[load_catalog()[model].task]
        return Targets.model_validate(of_task.model_dump() | self.models.get(model, {}))


class Slo(Spec):
    profiles: dict[str, Profile] = Field(min_length=1)
    never: tuple[Counter, ...] = Field(default=get_args(Counter), description="what must not happen once")

    def profile(self, name: str) -> Profile:
        """Raises KeyError, naming the profiles there are."""
        try:
            return self.profiles[name]
        except KeyError:
            raise KeyError(f"there is no profile {name!r}; there are {', '.join(sorted(self.profiles))}") from None

    def targets(self, task: Task, model: str, profile: str) -> Targets:
        """What is promised for a model of a task.

        Raises:
            KeyError: no such profile, or nothing is promised for the task.
        """
        promises = self.profile(profile)
        if model in promises.models:
            return promises.of_model(model)
        if task not in promises.tasks:
            raise KeyError(f"the profile {profile!r} promises nothing for {task}")
        return promises.tasks[task]


def load_slo(path: Path) -> Slo:
    """Read the file.

    Raises:
        ValueError: it is not there, not YAML, or has an unknown key or a wrong value; the message names it.
    """
    try:
        return Slo.model_validate(read_yaml(path.read_text()))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}, {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}.") from None
