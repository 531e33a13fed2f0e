"""The engine protocol for tasks without a server of their own: engines that work on several requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)


class BatchEngine(Protocol[Q_contra, A_co]):
    """A loaded model that gives one answer to each request. Methods block; `run` is called from one thread at a time.

    Attributes:
        largest_batch: the most requests in one `run`.
        largest_cost: the highest cost of a batch. It counts as if all its requests were padded to the costliest one.
    """

    largest_batch: int
    largest_cost: float

    def cost(self, request: Q_contra) -> float:
        """The relative amount of work in a request, such as its length. Requests of similar cost share a batch.

        Raises:
            InvalidRequest: this model cannot answer the request.
        """
        ...

    def run(self, requests: Sequence[Q_contra]) -> Sequence[A_co]:
        """The answers, in order.

        Raises:
            ServingError: the whole batch failed.
        """
        ...
