"""Chat models as replicas."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from deployments.servers.engine import EngineServer, broken
from models.errors import ServingError
from models.grammars.schemas import check_schemas
from models.tasks.chat import CHAT, COMPLETE, TASK, ChatEngine, GenerationRequest
from models.tasks.methods import handles
from models.tasks.tokens import DETOKENIZE, TOKENIZE, TokenizeRequest, TokenizeResult
from models.tasks.usage import Usage

Generate = Callable[[GenerationRequest], AsyncGenerator[bytes, None]]


class Server(EngineServer):
    engine: ChatEngine

    @handles(CHAT)
    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes | Usage, None]:
        async for item in self._generate(request, self.engine.chat):
            yield item

    @handles(COMPLETE)
    async def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes | Usage, None]:
        async for item in self._generate(request, self.engine.complete):
            yield item

    @handles(TOKENIZE)
    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        return await self.engine.tokenize(request)

    @handles(DETOKENIZE)
    async def detokenize(self, tokens: list[int]) -> str:
        return await self.engine.detokenize(tokens)

    async def _generate(self, request: GenerationRequest, generate: Generate) -> AsyncGenerator[bytes | Usage, None]:
        check_schemas(request.body)
        # aclosing closes the engine's iterator at once when the caller cancels, rather than at garbage collection.
        try:
            async with aclosing(generate(asking_for_usage(request))) as items:
                async for item in items:
                    usage = usage_in(item, request.stream)
                    # The event with the usage has no choices. Pass it on only if the client asked for it.
                    if usage is None or not request.stream or wants_usage(request):
                        yield item
                    if usage is not None:
                        yield usage
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None


def asking_for_usage(request: GenerationRequest) -> GenerationRequest:
    """The request, with the option that adds token counts to the end of a stream."""
    if not request.stream or wants_usage(request):
        return request
    options = {**(request.body.get("stream_options") or {}), "include_usage": True}
    return replace(request, body={**request.body, "stream_options": options})


def wants_usage(request: GenerationRequest) -> bool:
    return bool((request.body.get("stream_options") or {}).get("include_usage"))


def usage_in(item: bytes, stream: bool) -> Usage | None:
    """The token counts in a whole answer or in the last event of a stream."""
    if not stream:
        return _usage(orjson.loads(item).get("usage"))
    if b'"choices":[]' not in item and b'"choices": []' not in item:
        return None
    return _usage(orjson.loads(item.removeprefix(b"data: ")).get("usage"))


def _usage(counts: dict[str, Any] | None) -> Usage | None:
    if not counts:
        return None
    return Usage({count: counts.get(count.name) or 0 for count in TASK.counts})
