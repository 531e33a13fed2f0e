"""Answers in pieces, events or bytes, whose refusals keep their status code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.router.errors import error_event, unexpected
from deployments.router.record import record_of
from models.errors import ServingError

# A comment in server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
WAITING = b": waiting\n\n"


EVENTS = "text/event-stream"


class PieceByPiece(StreamingResponse):
    """Sends an iterator of ready-made pieces, and closes it whatever happens, also when the client has gone already.

    Args:
        close: ends what the pieces come from. The iterator cannot: closing one that was never read runs none of it.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], media_type: str, close: Callable[[], Awaitable[None]] | None = None
    ):
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(pieces, headers=headers, media_type=media_type)
        self.pieces = pieces
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.pieces):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)
        finally:
            if self.close is not None:
                await self.close()


class CutOff(Exception):
    """Ends a stream of bytes that broke. They have no place for an error, so the connection is cut."""


async def open_byte_stream(request: Request, pieces: AsyncGenerator[bytes, None], media_type: str) -> PieceByPiece:
    """Wait for the first piece, so that an error before it becomes a status code, then stream.

    Args:
        media_type: such as audio/mpeg.

    Raises:
        ServingError: what the model refused with.
    """
    record_of(request.scope).stream = True
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        first = b""
    return PieceByPiece(_bytes(request, first, pieces), media_type, pieces.aclose)


async def _bytes(request: Request, first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    except ServingError as error:
        record_of(request.scope).failed(error)
        raise CutOff(error.code) from None


async def open_event_stream(request: Request, events: AsyncGenerator[bytes, None], keep_alive_s: float) -> PieceByPiece:
    """Wait for the first event, so that an error before it becomes a status code, then stream.

    A client must not mistake a long wait for a dead connection. So after `keep_alive_s` the stream begins without an
    event. It sends comments, which clients skip, until the first event comes. An error then becomes an event.

    Raises:
        ServingError: the model's error before its first event.
    """
    first = asyncio.ensure_future(anext(events))
    try:
        await asyncio.wait([first], timeout=keep_alive_s)
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        raise

    async def close() -> None:
        await _give_up(first)
        await events.aclose()

    return PieceByPiece(_continue(request, first, events, keep_alive_s), EVENTS, close)


async def _continue(
    request: Request, first: asyncio.Future[bytes], events: AsyncGenerator[bytes, None], keep_alive_s: float
) -> AsyncGenerator[bytes, None]:
    try:
        while not first.done():
            yield WAITING
            await asyncio.wait([first], timeout=keep_alive_s)
        yield first.result()
        async for item in events:
            yield item
    except ServingError as error:
        record_of(request.scope).failed(error)
        yield error_event(error)
    except Exception as error:
        failure = unexpected(error, request.scope["request_id"])
        record_of(request.scope).failed(failure)
        yield error_event(failure)


async def _give_up(first: asyncio.Future[bytes]) -> None:
    """Stop waiting for the first event, so that the generator under it can be closed."""
    if not first.done():
        first.cancel()
        await asyncio.wait([first])
