"""What every engine of a task promises, whatever it runs on."""

import asyncio
import json
from contextlib import aclosing

import numpy as np
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion

from models.catalog import load_catalog
from models.errors import ContextLengthExceeded, InvalidRequest
from models.registry import ENGINES, load_engine
from models.specs import Backend, ModelSpec, NoSource, Task, VariantSpec
from models.tasks.chat import GenerationRequest
from models.tasks.tokens import TokenizeRequest
from models.weights import fetch

STARTERS = {Task.CHAT: "smollm2-135m-instruct", Task.EMBEDDINGS: "all-minilm-l6-v2"}
FAKE = VariantSpec.model_validate({"backend": "fake", "precision": "fp32", "needs": {"cpus": 0, "memory_gib": 0.1}})
MESSAGES = [{"role": "user", "content": "Say that Paris is the capital of France, and then say it once more."}]


def engines_of(task: Task):
    """One parameter for the fake and for each variant of the task's starter model that a CPU can run; those with real
    weights are marked. Every backend of the registry is among them."""
    yield pytest.param("fake", id=f"{task}-fake")
    for name, variant in load_catalog()[STARTERS[task]].variants.items():
        if variant.needs.gpus:
            continue
        marks = [pytest.mark.models]
        if variant.backend is Backend.VLLM:
            marks = [pytest.mark.skip(reason="runs inside ray.serve.llm: see tests/serve")]
        yield pytest.param(name, marks=marks, id=f"{task}-{name}")


def load(task: Task, name: str):
    """A variant of the starter model of the task, and its spec."""
    spec = load_catalog().resolve(STARTERS[task])
    if name == "fake":
        fake = {"source": NoSource(kind="none"), "variants": {"fake": FAKE}, "default_variant": "fake"}
        spec = spec.model_copy(update={**fake, "reference": None})
        return spec, load_engine(spec, FAKE)
    variant = spec.variant(name)
    fetch(spec, variant, lambda step: None)
    return spec, load_engine(spec, variant)


@pytest.mark.parametrize("task", STARTERS)
def test_every_backend_of_the_registry_is_tried(task):
    tried = {variant.backend for variant in load_catalog()[STARTERS[task]].variants.values() if not variant.needs.gpus}
    assert tried | {Backend.FAKE} == {backend for of_task, backend in ENGINES if of_task is task}


@pytest.fixture(scope="module", params=engines_of(Task.CHAT))
def chat(request):
    return load(Task.CHAT, request.param)


@pytest.fixture(scope="module", params=engines_of(Task.EMBEDDINGS))
def embeddings(request):
    return load(Task.EMBEDDINGS, request.param)


def call(**body) -> GenerationRequest:
    return GenerationRequest({"max_tokens": 12, "temperature": 0, **body}, "contract")


async def document(items) -> dict:
    (answer,) = [item async for item in items]
    return json.loads(answer)


async def chunks(items) -> list[dict]:
    *events, done = [item async for item in items]
    assert done == b"data: [DONE]\n\n"
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def adds_up(usage: dict) -> bool:
    return usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("n", [1, 2])
async def test_a_chat_and_its_stream_agree(chat: tuple[ModelSpec, object], n):
    spec, engine = chat
    body = {"messages": MESSAGES, "n": n}
    whole = await document(engine.chat(call(**body)))
    ChatCompletion.model_validate(whole, strict=True)
    parts = await chunks(engine.chat(call(**body, stream=True, stream_options={"include_usage": True})))
    for part in parts:
        ChatCompletionChunk.model_validate(part, strict=True)

    assert whole["model"] == spec.id
    assert whole["id"].endswith("contract")
    assert len(whole["choices"]) == n
    assert {part["id"] for part in parts} == {whole["id"]}
    for answer in whole["choices"]:
        mine = [choice for part in parts for choice in part["choices"] if choice["index"] == answer["index"]]
        assert "".join(choice["delta"].get("content") or "" for choice in mine) == answer["message"]["content"] != ""
        assert mine[0]["delta"]["role"] == answer["message"]["role"] == "assistant"
        reasons = [choice["finish_reason"] for choice in mine]
        assert reasons == [None] * (len(mine) - 1) + [answer["finish_reason"]]
    assert adds_up(whole["usage"])
    assert whole["usage"]["prompt_tokens"] > 0
    assert parts[-1]["usage"] == whole["usage"]
    assert parts[-1]["choices"] == []


async def test_a_completion_and_its_stream_agree(chat):
    _, engine = chat
    whole = await document(engine.complete(call(prompt="Once upon a time")))
    Completion.model_validate(whole, strict=True)
    parts = await chunks(engine.complete(call(prompt="Once upon a time", stream=True)))
    for part in parts:
        assert part["object"] == whole["object"] == "text_completion"
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["choices"][0]["text"] != ""
    assert parts[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert adds_up(whole["usage"])


async def test_max_tokens_ends_with_length(chat):
    _, engine = chat
    answer = await document(engine.chat(call(messages=MESSAGES, max_tokens=2)))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


async def test_a_stop_string_is_not_sent(chat):
    _, engine = chat
    full = (await document(engine.chat(call(messages=MESSAGES))))["choices"][0]["message"]["content"]
    stop = full.split()[2]
    answer = (await document(engine.chat(call(messages=MESSAGES, stop=stop))))["choices"][0]
    assert answer["message"]["content"].rstrip() == full[: full.index(stop)].rstrip()
    assert answer["finish_reason"] == "stop"


async def test_logprobs_cover_the_answer(chat):
    _, engine = chat
    answer = await document(engine.chat(call(messages=MESSAGES, logprobs=True)))
    ChatCompletion.model_validate(answer, strict=True)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) > 1
    assert all(entry["logprob"] <= 0 and bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)


async def test_greedy_answers_repeat(chat):
    _, engine = chat
    first, second = [await document(engine.chat(call(messages=MESSAGES))) for _ in range(2)]
    assert first["choices"] == second["choices"]


async def test_a_closed_iterator_leaves_the_engine_in_order(chat):
    _, engine = chat
    request = call(messages=MESSAGES, stream=True, max_tokens=400)
    async with aclosing(engine.chat(request)) as items:
        await anext(items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    async with asyncio.timeout(60):
        assert (await document(engine.chat(call(messages=MESSAGES))))["choices"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_context_is_refused_before_the_first_item(chat, stream):
    spec, engine = chat
    long = [{"role": "user", "content": "dog " * (spec.limits.context_tokens + 1)}]
    with pytest.raises(ContextLengthExceeded, match=str(spec.limits.context_tokens)):
        await anext(engine.chat(call(messages=long, stream=stream)))


async def test_chat_tokens_round_trip(chat):
    _, engine = chat
    result = await engine.tokenize(TokenizeRequest(text="Paris is a city", return_token_strings=True))
    assert len(result.token_strings) == len(result.tokens) > 1
    assert await engine.detokenize(result.tokens) == "Paris is a city"
    assert (await engine.tokenize(TokenizeRequest(text="Paris"))).token_strings is None
    assert (await engine.tokenize(TokenizeRequest(messages=tuple(MESSAGES)))).tokens
    for wrong in (-1, 1 << 30):
        with pytest.raises(InvalidRequest):
            await engine.detokenize([wrong])


async def test_a_loaded_engine_is_healthy(chat):
    _, engine = chat
    await engine.check_health()


LENGTHS = ["a", "the weather is lovely today", "dog " * 200, "a man is eating food", "b"]


def test_vectors_have_length_one(embeddings):
    spec, engine = embeddings
    vectors = engine.embed(engine.encode(LENGTHS))
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(LENGTHS), spec.dimensions.native)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_batch_is_the_same_as_one_by_one(embeddings, request):
    """To rounding. With few digits to what these leave, most where they are spread over all of a batch: one letter in
    the company of 200 words is the worst there is."""
    _, engine = embeddings
    tokens = engine.encode(LENGTHS)
    single, together = np.concatenate([engine.embed([item]) for item in tokens]), engine.embed(tokens)
    if any(name in request.node.callspec.id for name in ("int8", "bf16")):
        assert np.sum(single * together, axis=1).min() > 0.98
    else:
        np.testing.assert_allclose(together, single, atol=1e-4)


def test_embedding_is_deterministic(embeddings):
    _, engine = embeddings
    tokens = engine.encode(LENGTHS)
    np.testing.assert_array_equal(engine.embed(tokens), engine.embed(tokens))


def test_texts_together_have_the_tokens_of_each_alone(embeddings):
    _, engine = embeddings
    tokens = engine.encode(LENGTHS)
    assert tokens == [engine.encode([text])[0] for text in LENGTHS]
    assert all(0 <= token < engine.vocabulary_size for item in tokens for token in item)


def test_embedding_tokens_round_trip(embeddings):
    _, engine = embeddings
    tokens = engine.encode(["the weather is lovely"])[0]
    bare = engine.without_special_tokens(tokens)
    assert engine.detokenize(bare) == "the weather is lovely"
    assert len(engine.token_strings(tokens)) == len(tokens)


@pytest.mark.parametrize("length", [1, 2, 50, 1000])
def test_truncated_tokens_fit(embeddings, length):
    _, engine = embeddings
    tokens = engine.encode(["dog " * 200])[0]
    cut = engine.truncate(list(tokens), length)
    assert len(cut) == min(length, len(tokens))
    assert engine.embed([cut]).shape[0] == 1
