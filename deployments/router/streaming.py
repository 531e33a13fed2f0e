"""Server-sent events whose refusals keep their status code."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.router.errors import error_event, unexpected
from models.errors import ServingError


class EventStream(StreamingResponse):
    """Sends an iterator of ready-made events, and closes it whatever happens, also when the client has gone already."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]):
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


async def open_event_stream(request: Request, events: AsyncGenerator[bytes, None]) -> EventStream:
    """Wait for the first event, so that an error before it becomes a status code, then stream.

    Raises:
        ServingError: what the model refused with.
    """
    first = await anext(events)
    return EventStream(_continue(request, first, events))


async def _continue(request: Request, first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):  # type: ignore[type-var]
        yield first
        try:
            async for item in events:
                yield item
        except ServingError as error:
            yield error_event(error)
        except Exception as error:
            yield error_event(unexpected(error, request.scope["request_id"]))
