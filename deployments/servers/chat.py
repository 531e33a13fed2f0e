"""Chat models as replicas."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson

from deployments.servers.admission import Job
from deployments.servers.engine import JOB, EngineServer, broken
from deployments.servers.forecast import InTurn, Schedule, Stepwise
from deployments.servers.lengths import Lengths
from deployments.servers.pace import Work, doubling
from models.errors import ServingError
from models.grammars.schemas import check_schemas
from models.prompt_limits import too_long
from models.tasks.chat import CHAT, COMPLETE, TASK, ChatEngine, GenerationRequest, TellsSteps
from models.tasks.methods import handles
from models.tasks.tokens import DETOKENIZE, TOKENIZE, TokenizeRequest, TokenizeResult
from models.tasks.usage import COMPLETION_TOKENS, NOTHING, PROMPT_TOKENS, Usage

# A text that is read to see how fast the model reads, and how many tokens the letters of a text make.
MEASURED = (
    "The harbour was quiet that morning. A cold wind moved over the water, and men in heavy coats carried boxes of "
    "fish up the stone steps to the market. There, women sold bread, onions and honey under old canvas roofs, while "
    "children ran between the stalls with a small brown dog behind them. At noon a ship came in from the north with "
    "forty passengers, three horses and a letter for the captain of the guard. He read it twice, folded it, and put it "
    "into the pocket of his coat. Nobody asked what it said. In the evening, when the lamps were lit along the quay, "
    "he walked to the end of the pier and threw it into the sea."
)
# How many answers are written side by side to see how fast the model writes.
TOGETHER = 6
# Tokens of an answer, for which it is told how long prompts may be.
USUAL_ANSWER = 64.0

Generate = Callable[[GenerationRequest], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens of a prompt and of its answer, and seconds until the first piece and the last one."""

    read: int
    written: int
    first_s: float
    whole_s: float


class Server(EngineServer):
    engine: ChatEngine

    async def prepare(self) -> None:
        self.lengths = Lengths()
        self.ended = 0.0
        self.stepped_at: dict[Job, float] = {}
        self.side_by_side = self.engine.side_by_side
        self.tells = isinstance(self.engine, TellsSteps)
        if isinstance(self.engine, TellsSteps):
            self.engine.tell_steps(self.did)

    def schedule(self) -> Schedule:
        limits = self.side_by_side
        if limits is None:
            return InTurn()
        readers = max(1, limits.step // limits.chunk)
        return Stepwise(limits.chunk, readers, limits.sequences, limits.sequences, limits.step)

    def work(self, method: str, asked: GenerationRequest) -> Work:
        body = asked.body
        characters, texts, tokens = measured(body)
        read = self.lengths.tokens(characters, texts) if characters else 0.0
        steps = self.lengths.answer(limit_of(body), all_of_it=bool(body.get("ignore_eos")))
        return Work(max(1.0, read + tokens), max(1.0, steps), answers_of(body))

    def sizes(self) -> tuple[str, list[tuple[float, Work]]]:
        prompts = doubling(16, self.spec.limits.context_tokens)
        return "tokens of prompt", [(tokens, Work(float(tokens), USUAL_ANSWER)) for tokens in prompts]

    def shows(self, method: str, asked: GenerationRequest) -> bool:
        return asked.stream

    async def measure(self) -> None:
        """A prompt alone, and several short ones together: reading, and writing side by side."""
        long = await self._answered(MEASURED, 8)
        short, *_ = await asyncio.gather(*(self._answered(f"Hello {number}", 8) for number in range(TOGETHER)))
        self.lengths.fit((len(MEASURED), long.read), (len("Hello 0"), short.read))
        if not self.tells:
            for alone in (long, await self._answered("Hello", 8), await self._answered("Hello", 2)):
                self._learn_from(alone)

    async def _answered(self, text: str, tokens: int) -> Measured:
        """Have a chat of one text answered in so many tokens."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
        began, first, usage = time.monotonic(), 0.0, NOTHING
        async for item in self.chat(GenerationRequest({**body, "ignore_eos": True, "stream": True}, "measure")):
            first = first or time.monotonic()
            usage = item if isinstance(item, Usage) else usage
        whole_s = time.monotonic() - began
        return Measured(int(usage[PROMPT_TOKENS]), int(usage[COMPLETION_TOKENS]), first - began, whole_s)

    def _learn_from(self, alone: Measured) -> None:
        """Learn from the times of an answer what an engine does not tell of its steps."""
        read, written = float(alone.read), float(alone.written)
        if self.side_by_side is None:
            self.did(alone.whole_s, width=written, read=read)
            return
        self.did(alone.first_s, max(1.0, read / self.side_by_side.chunk), 0.0, read)
        if written > 1:
            self.did(alone.whole_s - alone.first_s, written - 1, written - 1)

    async def check_size(self, asked: GenerationRequest) -> None:
        """Raises ContextLengthExceeded if a prompt and its answer are more than the model can hold. Counts the tokens,
        so it is asked only of what admission will not take."""
        body, limit = asked.body, self.spec.limits.context_tokens
        messages, prompt = body.get("messages"), body.get("prompt")
        if messages is None and not isinstance(prompt, str):
            return
        # A token has at least a byte, so most need no count, for which a busy engine would take its time.
        if len(orjson.dumps(prompt if messages is None else messages)) + (limit_of(body) or 1) <= limit:
            return
        found = await self.engine.tokenize(TokenizeRequest(text=prompt, messages=messages))
        if len(found.tokens) + (limit_of(body) or 1) > limit:
            raise too_long(limit, "messages" if prompt is None else "prompt", len(found.tokens))

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
        job = JOB.get()
        # aclosing closes the engine's iterator at once when the caller cancels, rather than at garbage collection.
        try:
            async with aclosing(generate(asking_for_usage(request))) as items:
                async for item in items:
                    usage = usage_in(item, request.stream)
                    if job is not None and request.stream and usage is None:
                        self._note_piece(job)
                    # The event with the usage has no choices. Pass it on only if the client asked for it.
                    if usage is None or not request.stream or wants_usage(request):
                        yield item
                    if usage is not None:
                        self._note_lengths(request, usage, job)
                        yield usage
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None

    def _note_piece(self, job: Job) -> None:
        """A piece of every sequence is out."""
        now = time.monotonic()
        if not self.tells and self.side_by_side is not None:
            self._note_step(job, now, self.side_by_side.chunk)
        self.admission.wrote(job, 1 / job.work.width, now)

    def _note_step(self, job: Job, now: float, chunk: int) -> None:
        """What an engine that does not tell of its steps shows of them."""
        others = [other for other in self.admission.inside if other is not job]
        before = self.stepped_at.get(job)
        if before is not None and all(other.first for other in others):
            self.did(now - before, width=sum(other.work.width for other in self.admission.inside))
        elif before is None and not others:
            self.did(now - job.entered, max(1.0, job.work.read / chunk), 0.0, job.work.read)
        self.stepped_at = {one: at for one, at in self.stepped_at.items() if one in others} | {job: now}

    def _note_lengths(self, request: GenerationRequest, usage: Usage, job: Job | None) -> None:
        if job is None:  # texts of the warm-up are nobody's
            return
        body, read, written = request.body, usage[PROMPT_TOKENS], usage[COMPLETION_TOKENS]
        characters, texts, tokens = measured(body)
        if not tokens:
            self.lengths.learn(characters, int(read), texts)
        if not body.get("ignore_eos"):
            self.lengths.learn_answer(limit_of(body), written / answers_of(body))
        if self.side_by_side is None:
            now = time.monotonic()
            self.did(now - max(job.entered, self.ended), width=written, read=read)
            self.ended = now


def measured(body: dict[str, Any]) -> tuple[int, int, int]:
    """Characters of a request's texts, how many texts they are, and tokens that were sent as such."""
    prompt = body.get("prompt")
    if prompt is not None:
        parts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        texts = [part for part in parts if isinstance(part, str)]
        return sum(map(len, texts)), len(texts), sum(len(part) for part in parts if not isinstance(part, str))
    contents = [message.get("content") or "" for message in body.get("messages", ())]
    characters = sum(
        len(content) if isinstance(content, str) else sum(len(part.get("text") or "") for part in content)
        for content in contents
    )
    if body.get("tools"):
        characters += len(orjson.dumps(body["tools"]))
    return characters, len(contents), 0


def answers_of(body: dict[str, Any]) -> int:
    """How many answers are to be written: prompts times `n`."""
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return prompts * (body.get("n") or 1)


def limit_of(body: dict[str, Any]) -> int | None:
    """The limit on the tokens of an answer."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


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
