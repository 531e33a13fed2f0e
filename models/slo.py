"""The promises to users: the types of `slo.yaml`. All are frozen and reject unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from models.catalog import load_catalog
from models.documents import read_yaml, strictly
from models.sources import Spec
from models.specs import ModelId
from models.tasks import BY_NAME
from models.tasks.task import Task

Seconds = Annotated[float, Field(gt=0)]
# The alert for an error budget that burns 14.4 times too fast must be able to fire. Below 1 - 1/14.4 = 0.931 it cannot.
Share = Annotated[float, Field(ge=0.95, lt=1)]
# Load tests count some failures (loadtest/verdict.py) and fail at once on others, which no slow machine explains.
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


LIMITS = tuple(name for name in Targets.model_fields if name not in ("good", "availability"))


class Profile(Spec):
    """The promises of one kind of cluster.

    Attributes:
        default: for every task that has no entry in `tasks`.
        tasks: by the name of a task.
        models: by model id, what differs from the promise for its task.
    """

    default: Targets | None = None
    tasks: dict[str, Targets] = {}
    models: dict[ModelId, dict[str, float]] = {}

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.default is None and not self.tasks:
            raise ValueError("nothing is promised: write a default, or a line under tasks")
        for name, targets in self.tasks.items():
            if name not in BY_NAME:
                raise ValueError(f"there is no task {name!r}; there are {', '.join(BY_NAME)}")
            check_limits(targets, BY_NAME[name])
        for model in self.models:
            if model not in load_catalog():
                raise ValueError(f"the catalog has no model {model!r}")
            task = load_catalog()[model].task
            if self.of_task(task) is None:
                raise ValueError(f"{model} is for {task}, for which nothing is promised")
            check_limits(self.of_model(model), task)
        return self

    def of_task(self, task: Task[Any]) -> Targets | None:
        """The promise for a task: its own entry, else those limits of the default that apply to it, else None."""
        if task.name in self.tasks or self.default is None:
            return self.tasks.get(task.name)
        return self.default.model_copy(update={limit: None for limit in LIMITS if limit not in task.promises})

    def of_model(self, model: str) -> Targets:
        """The promise for a model of the catalog: that for its task, with what differs for this model.

        Raises:
            KeyError: nothing is promised for its task.
        """
        spec = load_catalog()[model]
        if (of_task := self.of_task(spec.task)) is None:
            raise KeyError(f"nothing is promised for {spec.task}")
        return Targets.model_validate(of_task.model_dump() | self.models.get(spec.row, {}))


def check_limits(targets: Targets, task: Task[Any]) -> None:
    """Raises ValueError for a limit that does not apply to this task."""
    for limit in LIMITS:
        if getattr(targets, limit) is not None and limit not in task.promises:
            possible = ", ".join(task.promises)
            raise ValueError(f"{limit} cannot be promised for {task}. What can be promised is {possible}.")


class Slo(Spec):
    profiles: dict[str, Profile] = Field(min_length=1)
    never: tuple[Counter, ...] = Field(default=get_args(Counter), description="what must not happen once")

    def profile(self, name: str) -> Profile:
        """Raises KeyError, naming the profiles there are."""
        try:
            return self.profiles[name]
        except KeyError:
            raise KeyError(f"there is no profile {name!r}; there are {', '.join(sorted(self.profiles))}") from None

    def targets(self, task: Task[Any], model: str, profile: str) -> Targets:
        """The promise for a model of a task; for `model@variant` that of the model.

        Raises:
            KeyError: no such profile, or nothing is promised for the task.
        """
        promises = self.profile(profile)
        if model.partition("@")[0] in promises.models:
            return promises.of_model(model)
        of_task = promises.of_task(task)
        if of_task is None:
            raise KeyError(f"the profile {profile!r} promises nothing for {task}")
        return of_task


def load_slo(path: Path) -> Slo:
    """Read slo.yaml.

    Raises:
        ValueError: it cannot be read, is not YAML, or has an unknown key or a wrong value. The message says where.
    """
    try:
        return strictly(Slo, read_yaml(path.read_text()))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}, {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}.") from None
