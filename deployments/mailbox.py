"""Mailboxes carry what a client sends during an answer, in pieces, from the router to a replica.

Serve passes arguments only when a call begins. So the router puts later pieces into a mailbox, and the replica that was
chosen takes them out. docs/decisions/0022 says why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from uuid import uuid4

from models.errors import ReplicaLost

T = TypeVar("T")
A = TypeVar("A")

# The most pieces of one conversation that may wait. At this limit the router stops reading from its client.
MOST_WAITING = 16


class Mailbox(Protocol):
    async def open(self, conversation: str) -> None: ...

    async def put(self, conversation: str, piece: Any) -> bool:
        """Wait for room and add a piece. Returns whether the conversation is still open."""
        ...

    async def end(self, conversation: str) -> None:
        """Mark the end of the pieces."""
        ...

    async def take(self, conversation: str) -> list[Any] | None:
        """Wait for pieces and take all of them. [] after the last one; None if the conversation was discarded."""
        ...

    async def discard(self, conversation: str) -> None:
        """Forget the conversation. Calls that wait in `put` or `take` return."""
        ...


@dataclass(slots=True)
class Waiting:
    """The pieces of one conversation that have not been taken yet."""

    pieces: deque[Any] = field(default_factory=deque)
    ended: bool = False
    discarded: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class MemoryMailbox:
    """A mailbox in this process. On a cluster it runs in an actor; see ray_mailbox.py."""

    def __init__(self):
        self.conversations: dict[str, Waiting] = {}

    async def open(self, conversation: str) -> None:
        self.conversations[conversation] = Waiting()

    async def put(self, conversation: str, piece: Any) -> bool:
        if (waiting := self.conversations.get(conversation)) is None:
            return False
        async with waiting.changed:
            await waiting.changed.wait_for(lambda: waiting.discarded or len(waiting.pieces) < MOST_WAITING)
            waiting.pieces.append(piece)
            waiting.changed.notify_all()
        return not waiting.discarded

    async def end(self, conversation: str) -> None:
        if waiting := self.conversations.get(conversation):
            async with waiting.changed:
                waiting.ended = True
                waiting.changed.notify_all()

    async def take(self, conversation: str) -> list[Any] | None:
        if (waiting := self.conversations.get(conversation)) is None:
            return None
        async with waiting.changed:
            await waiting.changed.wait_for(lambda: waiting.pieces or waiting.ended or waiting.discarded)
            if waiting.discarded:
                return None
            pieces = list(waiting.pieces)
            waiting.pieces.clear()
            waiting.changed.notify_all()
            return pieces

    async def discard(self, conversation: str) -> None:
        if waiting := self.conversations.pop(conversation, None):
            async with waiting.changed:
                waiting.discarded = True
                waiting.changed.notify_all()


class Incoming(Generic[T]):
    """The pieces of a conversation, for a method of a server to read. It is an argument of the call.

    Raises:
        ReplicaLost: from `anext`, if no more pieces will come although the client has not finished.
    """

    def __init__(self, mailbox: Mailbox, conversation: str):
        self.mailbox = mailbox
        self.conversation = conversation
        self._taken: deque[T] = deque()

    def __aiter__(self) -> Incoming[T]:
        return self

    async def __anext__(self) -> T:
        if not self._taken:
            pieces = await self.mailbox.take(self.conversation)
            if pieces is None:
                raise ReplicaLost("The conversation was lost on the way to the model. Begin it again.", None, 2.0)
            if not pieces:
                raise StopAsyncIteration
            self._taken.extend(pieces)
        return self._taken.popleft()


class Posting(Generic[T]):
    """Puts the pieces of a source into a mailbox, in the background.

    Attributes:
        incoming: for the replica.
        error: the exception that the source raised; the conversation is then discarded.
    """

    def __init__(self, mailbox: Mailbox, source: AsyncIterator[T]):
        self.incoming: Incoming[T] = Incoming(mailbox, uuid4().hex)
        self.error: Exception | None = None
        self._mailbox, self._source = mailbox, source

    async def post(self) -> None:
        conversation = self.incoming.conversation
        try:
            async for piece in self._source:
                if not await self._mailbox.put(conversation, piece):
                    return
            await self._mailbox.end(conversation)
        except Exception as error:
            self.error = error
            await self._mailbox.discard(conversation)


async def conversed(
    mailbox: Mailbox, source: AsyncIterator[T], call: Callable[[Incoming[T]], AsyncGenerator[A, None]]
) -> AsyncGenerator[A, None]:
    """The items of a call to which the pieces of a source go meanwhile.

    Args:
        call: makes the call, which is given the pieces.

    Raises:
        Exception: the source's, before that of the call, which follows from it.
    """
    async with posted(mailbox, source) as posting:
        try:
            async with aclosing(call(posting.incoming)) as items:
                async for item in items:
                    yield item
        except Exception as error:
            raise posting.error or error from None
        if posting.error:
            raise posting.error


@contextlib.asynccontextmanager
async def posted(mailbox: Mailbox, source: AsyncIterator[T]) -> AsyncIterator[Posting[T]]:
    """Carry the pieces of a source to a replica until the block ends."""
    posting = Posting(mailbox, source)
    await mailbox.open(posting.incoming.conversation)
    task = asyncio.create_task(posting.post())
    try:
        yield posting
    finally:
        task.cancel()
        await asyncio.wait([task])
        if isinstance(source, AsyncGenerator):
            await source.aclose()
        await mailbox.discard(posting.incoming.conversation)
