"""The starter chat model on transformers: in float32, in which every CPU computes alike."""

import asyncio
import inspect
import json
import random
import re
from contextlib import aclosing

import pytest
import torch
from patience import patience
from starters import CHAT, load_engine, row, shallow_chat, starter
from transformers import PreTrainedTokenizerBase
from vllm.renderers.hf import safe_apply_chat_template

from models.catalog import load_catalog
from models.engines.chat_transformers import Engine as TransformersChat
from models.engines.chat_vllm import Engine as VLLMChat
from models.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from models.tasks.chat import RESERVED_FOR_TEMPLATES, GenerationRequest
from models.tasks.tokens import TokenizeRequest

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Write a long story about a dog."}]


@pytest.fixture(scope="module")
def whole():
    return starter(CHAT, "transformers")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """With a few of the layers, for what does not depend on what is said."""
    return TransformersChat.load(*row(CHAT, "transformers"), shallow_chat(tmp_path_factory.mktemp("shallow")))


@pytest.fixture(scope="module")
def full(whole) -> str:
    """What the whole model answers to FRANCE."""
    return asyncio.run(text(whole, temperature=0))


@pytest.fixture
def forward_passes(engine):
    """A list that grows by one with each forward pass."""
    passes = []
    hook = engine.model.register_forward_pre_hook(lambda *_: passes.append(1))
    yield passes
    hook.remove()


async def until_running(passes, count):
    async with asyncio.timeout(patience(30)):
        while len(passes) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def generate(engine, method="chat", **body):
    if method == "chat":
        body.setdefault("messages", FRANCE)
    return [item async for item in getattr(engine, method)(GenerationRequest(body, "r1"))]


async def document(engine, method="chat", **body):
    (answer,) = await generate(engine, method, **body)
    return json.loads(answer)


async def text(engine, **body):
    return (await document(engine, **body))["choices"][0]["message"]["content"]


async def chunks(engine, method="chat", **body):
    *events, done = await generate(engine, method, stream=True, **body)
    assert done == b"data: [DONE]\n\n"
    return [json.loads(item.removeprefix(b"data: ")) for item in events]


def contents(events, index=0):
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


async def test_it_knows_the_capital_of_france(whole):
    answer = await document(whole, temperature=0)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "smollm2-135m-instruct"
    assert answer["id"].endswith("r1")


async def test_content_may_be_parts(engine):
    parts = [{"role": "user", "content": [{"type": "text", "text": FRANCE[0]["content"]}]}]
    few = {"temperature": 0, "max_tokens": 3}
    assert await text(engine, messages=parts, **few) == await text(engine, **few) != ""


@pytest.mark.models
async def test_a_stream_says_the_same(whole):
    answer = await document(whole, messages=STORY, temperature=0, max_tokens=40)
    events = await chunks(whole, messages=STORY, temperature=0, max_tokens=40, stream_options={"include_usage": True})
    assert "".join(contents(events)) == answer["choices"][0]["message"]["content"]
    assert len(contents(events)) > 10
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"] == "length"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == answer["usage"]


async def test_usage_is_sent_in_a_stream_only_when_asked_for(engine):
    assert not any("usage" in event for event in await chunks(engine, temperature=0, max_tokens=2))


async def test_usage_counts_tokens(engine):
    prompt = await engine.tokenize(TokenizeRequest(messages=tuple(FRANCE)))
    usage = (await document(engine, messages=FRANCE, max_tokens=5, temperature=0))["usage"]
    assert usage == {
        "prompt_tokens": len(prompt.tokens),
        "completion_tokens": 5,
        "total_tokens": len(prompt.tokens) + 5,
    }


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_ends_with_length(engine, name):
    answer = await document(engine, messages=STORY, temperature=0, **{name: 3})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


# The answer is "The capital of France is Paris."
STOPS = [" France", ["zzz", " France"], "pital of Fr", "l of France is P"]


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_after_a_stop_string_is_sent(whole, full, stream):
    await stops(whole, full, random.choice(STOPS), stream)


@pytest.mark.matrix
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_after_any_stop_string_is_sent(whole, full, stop, stream):
    await stops(whole, full, stop, stream)


async def stops(engine, full, stop, stream):
    word = stop if isinstance(stop, str) else stop[1]
    wanted = full[: full.index(word)]
    if stream:
        events = await chunks(engine, temperature=0, stop=stop, logprobs=True)
        sent, last = "".join(contents(events)), events[-1]["choices"][0]["finish_reason"]
        told = [entry for e in events for entry in (e["choices"][0]["logprobs"] or {"content": []})["content"]]
    else:
        choice = (await document(engine, temperature=0, stop=stop, logprobs=True))["choices"][0]
        sent, last, told = choice["message"]["content"], choice["finish_reason"], choice["logprobs"]["content"]
    assert sent == wanted
    assert last == "stop"
    assert wanted.startswith("".join(entry["token"] for entry in told))


async def test_text_that_only_began_like_a_stop_string_is_sent(whole, full):
    assert await text(whole, temperature=0, stop=["France is Rome", full + " And"]) == full


async def test_a_stop_string_ends_the_work(engine, forward_passes):
    await text(engine, messages=STORY, temperature=0, stop=" a", max_tokens=200)
    assert len(forward_passes) < 20


async def test_a_seed_makes_it_repeatable(engine):
    body = {"messages": STORY, "temperature": 1.5, "max_tokens": 6}
    first = await text(engine, seed=7, **body)
    unseeded = [await text(engine, **body) for _ in range(2)]
    assert await text(engine, seed=7, **body) == first
    assert await text(engine, seed=8, **body) != first
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("seed", [-(1 << 63), (1 << 63) - 1])
async def test_every_seed_of_64_bits_is_taken(engine, seed):
    await document(engine, seed=seed, n=2, temperature=1, max_tokens=1)


async def test_n_answers(engine):
    answer = await document(engine, messages=STORY, n=3, temperature=1.2, seed=1, max_tokens=4)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer["usage"]["completion_tokens"] == 12
    events = await chunks(engine, messages=STORY, n=3, temperature=1.2, seed=1, max_tokens=4)
    assert ["".join(contents(events, index)) for index in range(3)] == texts


async def test_sampling_parameters_take_effect(engine):
    body = {"messages": STORY, "max_tokens": 4}
    greedy = await text(engine, temperature=0, **body)
    assert await text(engine, temperature=2, top_k=1, seed=1, **body) == greedy
    assert await text(engine, temperature=2, top_p=1e-6, seed=1, **body) == greedy
    assert await text(engine, temperature=2, min_p=1.0, seed=1, **body) == greedy
    assert await text(engine, **body) == greedy  # the starter model's own configuration is greedy
    assert await text(engine, temperature=1e-30, **body) == greedy
    assert await text(engine, temperature=0, repetition_penalty=5.0, **body) != greedy


async def test_logprobs(engine):
    answer = await document(engine, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == answer["choices"][0]["message"]["content"]
    for entry in entries:
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["token"] == entry["token"]
    warm = await document(engine, temperature=2, top_k=1, max_tokens=1, logprobs=True)
    assert warm["choices"][0]["logprobs"]["content"][0]["logprob"] == pytest.approx(entries[0]["logprob"], abs=1e-3)


async def test_tools_that_may_not_be_called_change_nothing(engine):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    plain = (await document(engine, max_tokens=1))["usage"]["prompt_tokens"]
    hidden = (await document(engine, max_tokens=1, tools=[tool], tool_choice="none"))["usage"]["prompt_tokens"]
    assert hidden == plain


async def test_a_chat_with_earlier_tool_calls(engine):
    call = {"id": "1", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    chat = [
        *FRANCE,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Paris"},
    ]
    assert (await document(engine, messages=chat, max_tokens=1))["usage"]["completion_tokens"] == 1
    call["function"]["arguments"] = "{not json"
    with pytest.raises(InvalidRequest):
        await document(engine, messages=chat, max_tokens=1)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"something_new": 1}, "something_new"),
        ({"tools": [{}]}, "tools"),
        ({"tools": [{}], "tool_choice": "required"}, "tools"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(engine, body, named):
    with pytest.raises(UnsupportedParameter) as caught:
        await generate(engine, **body)
    assert caught.value.param == named


@pytest.mark.parametrize("body", [{"logprobs": 1}, {"echo": True}, {"tools": [{}]}])
async def test_completions_refuse_what_they_cannot_honour(engine, body):
    with pytest.raises(UnsupportedParameter) as caught:
        await generate(engine, "complete", prompt="Hi", **body)
    assert caught.value.param == next(iter(body))


async def test_values_that_change_nothing_are_accepted(engine):
    await document(
        engine, max_tokens=1, n=1, presence_penalty=0, frequency_penalty=0.0, logit_bias={}, user="me", seed=None,
        response_format={"type": "text"}, echo=False, skip_special_tokens=True, parallel_tool_calls=True, top_k=-1,
        chat_template_kwargs={"enable_thinking": False}, add_special_tokens=False,
    )  # fmt: skip


async def test_a_prompt_over_the_context_is_refused_with_both_numbers(engine):
    with pytest.raises(ContextLengthExceeded) as caught:
        await generate(engine, messages=[{"role": "user", "content": " dog" * 9000}], stream=True)
    assert "8192" in caught.value.message
    assert max(map(int, re.findall(r"\d+", caught.value.message))) > 9000
    with pytest.raises(ContextLengthExceeded) as caught:
        await generate(engine, "complete", prompt=[[28] * 8192])
    assert caught.value.param == "prompt"


async def test_the_answer_ends_where_the_context_does(engine, monkeypatch):
    prompt = await engine.tokenize(TokenizeRequest(messages=tuple(STORY)))
    room = len(prompt.tokens) + 4
    limits = engine.spec.limits.model_copy(update={"context_tokens": room})
    monkeypatch.setattr(engine, "spec", engine.spec.model_copy(update={"limits": limits}))
    for body in ({}, {"max_tokens": 1000}):
        answer = await document(engine, messages=STORY, temperature=0, **body)
        assert answer["usage"]["total_tokens"] == room
        assert answer["choices"][0]["finish_reason"] == "length"


async def test_completions_take_texts_and_token_ids(whole):
    ids = list((await whole.tokenize(TokenizeRequest(text="The capital of France is"))).tokens)
    one = await document(whole, "complete", prompt="The capital of France is", temperature=0)
    assert one["object"] == "text_completion"
    assert one["usage"]["completion_tokens"] == 16
    assert "Paris" in one["choices"][0]["text"]
    for prompt in (ids, [ids], ["The capital of France is"]):
        again = await document(whole, "complete", prompt=prompt, temperature=0, max_tokens=4)
        assert one["choices"][0]["text"].startswith(again["choices"][0]["text"])
        assert again["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"] == len(ids)
    two = await document(whole, "complete", prompt=[ids, ids[:3]], n=2, temperature=0, max_tokens=2)
    assert [choice["index"] for choice in two["choices"]] == [0, 1, 2, 3]
    assert two["usage"]["prompt_tokens"] == len(ids) + 3
    assert two["usage"]["completion_tokens"] == 8


@pytest.mark.models
async def test_completion_streams_agree(whole):
    answer = await document(whole, "complete", prompt="Once upon a time", temperature=0)
    events = await chunks(whole, "complete", prompt="Once upon a time", temperature=0)
    assert "".join(event["choices"][0]["text"] for event in events) == answer["choices"][0]["text"]


def test_what_a_template_is_given_is_reserved():
    for function in (PreTrainedTokenizerBase.apply_chat_template, safe_apply_chat_template):
        assert set(inspect.signature(function).parameters) <= RESERVED_FOR_TEMPLATES


async def test_closing_the_iterator_stops_the_generation(engine, forward_passes):
    body = {"messages": STORY, "temperature": 0, "max_tokens": 400, "stream": True}
    async with aclosing(engine.chat(GenerationRequest(body, "r1"))) as items:
        seen = 0
        async for _ in items:
            seen += 1
            if seen == 3:
                break
    at_close = len(forward_passes)
    await asyncio.sleep(0.5)
    assert len(forward_passes) <= at_close + 1


async def test_cancelling_the_task_stops_the_generation(engine, forward_passes):
    task = asyncio.create_task(document(engine, messages=STORY, temperature=0, max_tokens=400))
    await until_running(forward_passes, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_cancel = len(forward_passes)
    await asyncio.sleep(0.5)
    assert len(forward_passes) <= at_cancel + 1


async def test_a_cancelled_request_in_the_queue_never_runs(engine, forward_passes):
    first = asyncio.create_task(document(engine, messages=STORY, temperature=0, max_tokens=8))
    await until_running(forward_passes, 1)
    second = asyncio.create_task(document(engine, messages=STORY, temperature=0, max_tokens=400))
    await asyncio.sleep(0.05)
    second.cancel()
    await first
    await asyncio.sleep(0.2)
    assert len(forward_passes) == 8


async def test_requests_at_once_do_not_mix(engine):
    body = {"messages": STORY, "temperature": 1.0, "max_tokens": 4}
    alone = [await text(engine, seed=seed, **body) for seed in range(3)]
    assert await asyncio.gather(*(text(engine, seed=seed, **body) for seed in range(3))) == alone


async def test_characters_that_span_tokens_are_not_broken(whole):
    await keeps_characters_whole(whole, random.choice([10, 11, 12]))


@pytest.mark.matrix
@pytest.mark.parametrize("limit", [20, 21, 22])
async def test_characters_of_long_answers_are_not_broken(whole, limit):
    await keeps_characters_whole(whole, limit)


async def keeps_characters_whole(engine, limit):
    """The model repeats what it has been shown; each emoji is several tokens."""
    shown = "🦜🌍🦜🌍🦜🌍🦜🌍🦜🌍"
    ids = (await engine.tokenize(TokenizeRequest(text=shown))).tokens
    assert len(ids) > len(shown)
    events = await chunks(engine, "complete", prompt=shown, temperature=0, max_tokens=limit)
    pieces = [event["choices"][0]["text"] for event in events]
    assert any(not piece.isascii() for piece in pieces)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


async def test_tokenize_and_detokenize(engine):
    result = await engine.tokenize(TokenizeRequest(text="Hello wörld", return_token_strings=True))
    assert len(result.token_strings) == len(result.tokens)
    assert await engine.detokenize(result.tokens) == "Hello wörld"
    chat = await engine.tokenize(TokenizeRequest(messages=tuple(FRANCE)))
    assert (await engine.detokenize(chat.tokens)).endswith("<|im_start|>assistant\n")
    bare = await engine.tokenize(TokenizeRequest(messages=tuple(FRANCE), add_generation_prompt=False))
    assert chat.tokens[: len(bare.tokens)] == bare.tokens
    assert len(bare.tokens) < len(chat.tokens)
    for wrong in ([-1], [engine.vocabulary_size]):
        with pytest.raises(InvalidRequest):
            await engine.detokenize(wrong)


async def test_it_is_healthy(engine):
    await engine.check_health()


def test_a_gpu_that_is_absent_is_an_error(engine, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    variant = engine.spec.variant("transformers")
    on_gpu = variant.model_copy(update={"needs": variant.needs.model_copy(update={"gpus": 1})})
    with pytest.raises(RuntimeError, match="GPU"):
        load_engine(engine.spec, on_gpu)


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", torch.float32), ("AVX512", torch.bfloat16)])
def test_a_cpu_that_has_to_convert_bf16_computes_in_float32(engine, monkeypatch, tmp_path, capability, dtype):
    variant, made = load_catalog()[CHAT].variant("transformers"), []
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr(TransformersChat, "__init__", lambda self, *arguments: made.append(arguments))
    TransformersChat.load(engine.spec, variant, tmp_path)
    assert made == [(engine.spec, tmp_path, "cpu", dtype, None)]
    vllm, vllm_on_gpu = (engine.spec.variant(name) for name in ("vllm-cpu", "vllm"))
    assert VLLMChat.dtype(vllm) == {torch.float32: "float32", torch.bfloat16: "auto"}[dtype]
    assert VLLMChat.dtype(vllm_on_gpu) == "auto"


@pytest.mark.models
async def test_it_knows_as_much_in_the_numbers_of_the_catalog(whole, full):
    as_served = load_engine(whole.spec, whole.spec.variant("transformers"))
    assert "Paris" in await text(as_served, temperature=0)
    few = {"temperature": 0, "max_tokens": 2, "logprobs": True}
    told = [(await document(one, **few))["choices"][0]["logprobs"]["content"][0] for one in (whole, as_served)]
    assert told[0]["token"] == told[1]["token"]
    assert told[0]["logprob"] == pytest.approx(told[1]["logprob"], abs=0.4)
