"""Engines that work on several requests at once: what a task needs that has no server of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)


class BatchEngine(Protocol[Q_contra, A_co]):
    """A loaded model that gives one answer to each request. Methods block; `run` is called from one thread at a time.

    Attributes:
        largest_batch: requests that `run` takes at once.
        largest_cost: of a batch: the highest cost in it times the number of its requests, as if all were padded to it.
    """

    largest_batch: int
    largest_cost: float

    def cost(self, request: Q_contra) -> float:
        """How much work a request is beside others, such as its length. Requests of similar cost share a batch.

        Raises:
            InvalidRequest: this model cannot answer it.
        """
        ...

    def run(self, requests: Sequence[Q_contra]) -> Sequence[A_co]:
        """The answers, in order.

        Raises:
            ServingError: of the whole batch.
        """
        ...
