"""The contract of a task: everything that the rest of Medley needs to know about it, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from models.sources import Source, Spec
from models.tasks.methods import Ask, Method
from models.tasks.tokens import TOKENIZE
from models.tasks.usage import AUDIO_SECONDS, Count


class Settings(Spec):
    """The `settings:` of a catalog row: what only models of its task have. A task without settings uses this class."""

    def parts(self) -> Mapping[str, Mapping[str, Source]]:
        """Weights beside the model's own, by kind and name, such as `{"adapter": {"watercolour": ...}}`."""
        return {}

    def card(self) -> dict[str, Any]:
        """What `/v1/models` shows of these settings. `limits` in it are added to the model's other limits."""
        return {}


class Begins(StrEnum):
    """What a stream begins with. The time to it can then be promised."""

    TOKENS = "tokens"
    AUDIO = "audio"


class Row(Protocol):
    """The part of a catalog row that a contract reads."""

    @property
    def id(self) -> str: ...

    @property
    def task(self) -> Task[Any]: ...

    @property
    def settings(self) -> Settings: ...


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, eq=False)
class Task(Generic[S]):
    """
    Attributes:
        name: in the catalog, in `slo.yaml` and in metrics. Other parts are found by it; see models/tasks/__init__.py.
        settings: the type of `settings:` in the catalog.
        methods: the methods that models of this task have.
        counts: the units in which a request's usage is measured.
        sample: small requests that together cover the paths through the engine. A replica answers them before the first
            real request, which then finds everything loaded.
        begins: what a stream begins with; None if nothing is promised about it.
        batched: its server reports the size of each batch, as servers/batch.py does. False for chat: vLLM batches, and
            has metrics of its own.
    """

    name: str
    settings: type[S]
    methods: tuple[Method[Any, Any], ...]
    counts: tuple[Count, ...]
    sample: Callable[[S], tuple[Ask[Any, Any], ...]]
    begins: Begins | None = None
    batched: bool = False

    def __str__(self) -> str:
        return self.name

    def settings_of(self, row: Row) -> S:
        """The settings of a model of this task, with their type. Raises TypeError for a model of another task."""
        if row.task is not self or not isinstance(row.settings, self.settings):
            raise TypeError(f"{row.id} is a model for {row.task}, not for {self}")
        return row.settings

    @property
    def reads_tokens(self) -> bool:
        """Its models can tokenize text for clients."""
        return TOKENIZE in self.methods

    @property
    def promises(self) -> tuple[str, ...]:
        """The limits of `slo.yaml` that apply to this task."""
        first = {
            None: (),
            Begins.TOKENS: ("time_to_first_token_s", "time_per_output_token_s"),
            Begins.AUDIO: ("time_to_first_audio_s",),
        }
        of_sound = ("real_time_factor",) if AUDIO_SECONDS in self.counts else ()
        return ("duration_s", *first[self.begins], *of_sound)
