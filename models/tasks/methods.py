"""What a model of a task can be asked: its methods, as objects with types, in gRPC's kinds.

A server declares which of its functions handles which method (`@handles`); the router calls by the object. So a type
checker sees a wrong name, a wrong argument and a wrong result on both sides.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from models.tasks.usage import Usage

Q = TypeVar("Q")
"""What is asked."""
A = TypeVar("A")
"""What is answered; of a stream, one item of it."""
S = TypeVar("S")
"""A server's class."""


def never(request: Any) -> bool:
    return False


def always(request: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Method(Generic[Q, A]):
    """
    Attributes:
        name: as it stands in logs and crosses processes.
        request, result: the types of a request, and of an answer or an item of one.
        large: whether a request or its answer may be over half a megabyte.
        lookup: it looks something up and makes nothing: it takes no place among requests, and no time worth counting.
    """

    name: str
    request: type[Q]
    result: type[A]
    large: Callable[[Q], bool] = never
    lookup: bool = False

    def __call__(self, request: Q) -> Ask[Q, A]:
        """A request to this method."""
        return Ask(self, request)

    def __str__(self) -> str:
        return self.name


class Unary(Method[Q, A]):
    """One request, one answer."""

    __slots__ = ()


class Stream(Method[Q, A]):
    """One request, an answer in items."""

    __slots__ = ()


class Duplex(Method[Q, A]):
    """Requests as they come, and items as they come, at the same time."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Ask(Generic[Q, A]):
    """A request, with the method that it is for."""

    method: Method[Q, A]
    request: Q


_MARK = "__handles__"


@overload
def handles(method: Unary[Q, A]) -> Callable[[Callable[[S, Q], Awaitable[A]]], Callable[[S, Q], Awaitable[A]]]: ...


@overload
def handles(
    method: Stream[Q, A],
) -> Callable[
    [Callable[[S, Q], AsyncGenerator[A | Usage, None]]], Callable[[S, Q], AsyncGenerator[A | Usage, None]]
]: ...


@overload
def handles(
    method: Duplex[Q, A],
) -> Callable[
    [Callable[[S, AsyncIterator[Q]], AsyncGenerator[A | Usage, None]]],
    Callable[[S, AsyncIterator[Q]], AsyncGenerator[A | Usage, None]],
]: ...


def handles(method: Any) -> Any:
    """Declares that a function of a server handles a method. A Usage among the items of a stream is what it used up."""

    def mark(function: Any) -> Any:
        setattr(function, _MARK, method)
        return function

    return mark


def handlers_of(server: type) -> dict[str, str]:
    """The names of a server's functions by the names of the methods that they handle."""
    marked = ((name, getattr(getattr(server, name, None), _MARK, None)) for name in dir(server))
    return {method.name: name for name, method in marked if method is not None}
