"""The interface of a task's evaluation: how its variants are run and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from models.registry import there_is
from models.specs import ModelSpec, VariantSpec
from models.tasks.task import Task

# A subject's answers to the evaluation set, by name: everything that `compare` needs, and no times.
Answers = Mapping[str, np.ndarray]
Fraction = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Measure:
    """A number for the similarity of a variant to its reference.

    Attributes:
        title: the heading in tables. means: a sentence that defines the measure, with its source.
        higher_is_better: whether a floor is a lower bound, else an upper one.
        unit: "" for a pure number.
    """

    title: str
    means: str
    higher_is_better: bool
    unit: str = ""

    def keeps(self, value: float, floor: float) -> bool:
        """False for NaN too."""
        return value >= floor if self.higher_is_better else value <= floor


class Subject(Protocol):
    """A loaded variant under test."""

    def answers(self, fraction: Fraction) -> Answers:
        """Answer the evaluation set. Repeatable on the same machine, except for rounding."""
        ...

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        """Answer one typical request with this many items, or this many requests at once if the engine takes one item.

        Args:
            turn: the number of the call. Inputs differ between turns, and are the same for all variants.

        Returns:
            times that cannot be measured from outside, such as to the first token; empty for most.
        """
        ...

    def close(self) -> None:
        """Free everything before the process ends."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """
    Attributes:
        measures: by name. `compare` and the floors in the catalog use the same names.
        item: the unit of throughput in the singular: "text", "picture", "token".
        open: loads a variant from its folder of weights, like a replica. May raise the engine's errors.
        compare: turns the answers of the reference and of a variant into `measures`.
        items: the number of items in one batch, for the throughput. None: the batch's size. For chat, tokens.
    """

    measures: Mapping[str, Measure]
    item: str
    open: Callable[[ModelSpec, VariantSpec, Path], Subject]
    compare: Callable[[Answers, Answers], dict[str, float]]
    items: Callable[[int], float] | None = None


def evaluation_of(task: Task) -> Evaluation:
    """The `EVALUATION` in the module of this package with the task's name.

    Raises:
        KeyError: there is none. The message is for people.
    """
    name = f"workshop.evaluation.{task}"
    evaluation = getattr(import_module(name), "EVALUATION", None) if there_is(name) else None
    if evaluation is None:
        raise KeyError(f"Variants of models for {task} are not compared: Medley has no evaluation for this task.")
    return evaluation
