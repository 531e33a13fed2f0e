"""Chat models as replicas."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from deployments.servers.engine import EngineServer, broken
from models.errors import ServingError
from models.tasks.chat import GenerationRequest
from models.tasks.tokens import TokenizeRequest, TokenizeResult


class ChatServer(EngineServer):
    async def warm_up(self) -> None:
        """A prompt and an answer of usual length: kernels are made for the shapes they are first used with."""
        body = {"messages": [{"role": "user", "content": "word " * 48}], "max_tokens": 16, "temperature": 0}
        for number in range(2):
            async for _ in self.chat(GenerationRequest(body, f"warm-up-{number}")):
                pass

    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        async for item in self._generate("chat", request):
            yield item

    async def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        async for item in self._generate("complete", request):
            yield item

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        return await self.engine.tokenize(request)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return await self.engine.detokenize(tokens)

    async def _generate(self, method: str, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        # aclosing: when the caller cancels, the engine's iterator is closed here and now, not by the garbage collector.
        try:
            async with aclosing(getattr(self.engine, method)(request)) as items:
                async for item in items:
                    yield item
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None
