"""What a client says while its answer is being made already: pieces on their way from the router to a replica.

Serve hands a call its arguments when it begins. So the router puts later pieces into a mailbox beside it, and the
replica that was chosen takes them out; docs/decisions/0022 says why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from uuid import uuid4

from models.errors import ReplicaLost

T = TypeVar("T")

# Pieces of one conversation that may wait. With more the router reads no further from its client.
MOST_WAITING = 16


class Mailbox(Protocol):
    async def open(self, conversation: str) -> None: ...

    async def put(self, conversation: str, piece: Any) -> bool:
        """Wait for room, and leave a piece. Whether anybody may still take it."""
        ...

    async def end(self, conversation: str) -> None:
        """There are no more pieces."""
        ...

    async def take(self, conversation: str) -> list[Any] | None:
        """Wait for pieces, and take all there are: [] after the last one, None when the conversation was discarded."""
        ...

    async def discard(self, conversation: str) -> None:
        """Forget the conversation. Whoever waits in `put` or `take` returns."""
        ...


@dataclass(slots=True)
class Waiting:
    """The pieces of one conversation that nobody has taken yet."""

    pieces: deque[Any] = field(default_factory=deque)
    ended: bool = False
    discarded: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class MemoryMailbox:
    """A mailbox in this process. On a cluster it is the process of an actor; see ray_mailbox.py."""

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
    """The pieces of a conversation, as a method of a server reads them. It travels with the call.

    Raises:
        ReplicaLost: from `anext`, when nothing will come any more and yet the caller is not done.
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
    """Puts what comes in into a mailbox, in the background.

    Attributes:
        incoming: for the replica.
        error: what the source raised; the replica is told that no more will come of it.
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


@contextlib.asynccontextmanager
async def posted(mailbox: Mailbox, source: AsyncIterator[T]) -> AsyncIterator[Posting[T]]:
    """A source of pieces on its way to a replica, until the block is left."""
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
