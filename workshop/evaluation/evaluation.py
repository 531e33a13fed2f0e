"""What a task's module says of how its variants are tried and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from models.specs import ModelSpec, VariantSpec
from models.tasks.task import Task

# What a subject made of the evaluation set, by name: whatever `compare` needs, and nothing that depends on the hour.
Answers = Mapping[str, np.ndarray]
Fraction = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that says how near a variant is to its reference.

    Attributes:
        title: as a table's head. means: what it is, in a sentence, with its source.
        higher_is_better: a floor is a lower bound then, and an upper bound otherwise.
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
    """A loaded variant that is tried."""

    def answers(self, fraction: Fraction) -> Answers:
        """Go through the evaluation set. The same each time, on the same machine, up to what the hardware rounds."""
        ...

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        """Answer one typical request of so many items, or so many requests at once where the engine takes one item.

        Args:
            turn: counts the calls; inputs differ from turn to turn, and are the same for every variant.

        Returns:
            seconds that the harness cannot see from outside, such as the time to the first token; empty for most.
        """
        ...

    def close(self) -> None:
        """Give everything back. The process ends after it."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """
    Attributes:
        measures: by the names that `compare` returns and floors are stated for in the catalog.
        item: what a batch consists of, in the singular: "text", "picture", "token".
        open: load a variant from its folder of weights, as a replica would. May raise what its engine raises.
        compare: the answers of the reference and of a variant to numbers, by the names of `measures`.
        items: of one batch, for the throughput; None where it is the batch's size. For chat, tokens.
    """

    measures: Mapping[str, Measure]
    item: str
    open: Callable[[ModelSpec, VariantSpec, Path], Subject]
    compare: Callable[[Answers, Answers], dict[str, float]]
    items: Callable[[int], float] | None = None


def evaluation_of(task: Task) -> Evaluation:
    """The `EVALUATION` of the module in this package that is named after the task.

    Raises:
        KeyError: there is none. The message is a sentence for people.
    """
    name = f"workshop.evaluation.{task}"
    evaluation = getattr(import_module(name), "EVALUATION", None) if find_spec(name) else None
    if evaluation is None:
        raise KeyError(f"Variants of models for {task} are not compared: Medley has no evaluation for this task.")
    return evaluation
