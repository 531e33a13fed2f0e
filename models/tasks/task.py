"""The contract of a task: all that the rest of Medley needs to know of it, in one object."""

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
    """What only models of one task have: `settings:` of a row of the catalog. A task without any has this one."""

    def parts(self) -> Mapping[str, Mapping[str, Source]]:
        """Weights beside the model's own, by kind and name, such as `{"adapter": {"watercolour": ...}}`."""
        return {}

    def card(self) -> dict[str, Any]:
        """What `/v1/models` tells of them; `limits` is added to the limits there are."""
        return {}


class Begins(StrEnum):
    """What a stream's first piece is, so that a promise can be made on it."""

    TOKENS = "tokens"
    AUDIO = "audio"


class Row(Protocol):
    """What a contract reads of a row of the catalog."""

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
        name: in the catalog, in `slo.yaml` and in metrics. By it the other parts are found; see models/tasks/parts.py.
        settings: what a row's `settings:` must be.
        methods: what a model can be asked.
        counts: what a request uses up.
        sample: small requests, each of another path through the engine: a replica answers them before the first real
            one, so that this one finds everything paged in.
        begins: what a stream begins with; None where nothing is promised on it.
        batched: a replica works on several requests at once, so it has a batch size.
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
        """The settings of a model of this task, by their type. Raises TypeError: it is of another task."""
        if row.task is not self or not isinstance(row.settings, self.settings):
            raise TypeError(f"{row.id} is a model for {row.task}, not for {self}")
        return row.settings

    @property
    def reads_tokens(self) -> bool:
        """Its models cut text into tokens, and can be asked for them."""
        return TOKENIZE in self.methods

    @property
    def promises(self) -> tuple[str, ...]:
        """The limits of `slo.yaml` that can be kept or broken for this task."""
        first = {
            None: (),
            Begins.TOKENS: ("time_to_first_token_s", "time_per_output_token_s"),
            Begins.AUDIO: ("time_to_first_audio_s",),
        }
        of_sound = ("real_time_factor",) if AUDIO_SECONDS in self.counts else ()
        return ("duration_s", *first[self.begins], *of_sound)
