"""The methods of a task's models, as typed objects of gRPC's kinds: unary, stream and duplex.

A server declares which of its functions handles which method (`@handles`), and the router calls through the same
object, so a type checker finds a wrong name, argument or result on both sides.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from models.tasks.usage import Usage

Q = TypeVar("Q")
"""The type of a request."""
A = TypeVar("A")
"""The type of an answer, or of one item of a stream."""
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
        name: identifies it in logs and between processes.
        request, result: the types of a request, and of an answer or one item of a stream.
        large: tells whether a request or its answer may be over half a megabyte. Both then go through Ray's object
            store.
        lookup: the method only looks something up. It is always admitted, and its time is not counted.
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
    """One request, a stream of items as the answer."""

    __slots__ = ()


class Duplex(Method[Q, A]):
    """A stream of requests and a stream of items, at the same time."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Ask(Generic[Q, A]):
    """A request and its method."""

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
    """Declares that a function of a server handles a method. A stream reports what it used by yielding a Usage."""

    def mark(function: Any) -> Any:
        setattr(function, _MARK, method)
        return function

    return mark


def handlers_of(server: type) -> dict[str, str]:
    """The names of a server's handlers, by method name."""
    marked = ((name, getattr(getattr(server, name, None), _MARK, None)) for name in dir(server))
    return {method.name: name for name, method in marked if method is not None}
