"""Server-sent events, with proper status codes for errors before the first event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.router.errors import error_event, unexpected
from deployments.router.record import record_of
from models.errors import ServingError

# A comment in server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
WAITING = b": waiting\n\n"


class EventStream(StreamingResponse):
    """Sends an iterator of events, and always closes it, even if the client has already disconnected."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]):
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


async def open_event_stream(request: Request, events: AsyncGenerator[bytes, None], keep_alive_s: float) -> EventStream:
    """Wait for the first event, so that an earlier error becomes a status code, then stream.

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
    return EventStream(_continue(request, first, events, keep_alive_s))


async def _continue(
    request: Request, first: asyncio.Future[bytes], events: AsyncGenerator[bytes, None], keep_alive_s: float
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(events):  # type: ignore[type-var]
            try:
                while not first.done():
                    yield WAITING
                    await asyncio.wait([first], timeout=keep_alive_s)
                yield first.result()
                async for item in events:
                    yield item
            finally:
                await _give_up(first)
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
