"""The adapter of vLLM, on stand-ins for vLLM's parts: what it asks, what it refuses, how it translates."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError
from pydantic import BaseModel
from starters import CHAT, row
from vllm.exceptions import LoRAAdapterNotFoundError, QueueOverflowError, VLLMValidationError

from models.engines.chat_vllm import Engine
from models.engines.chat_vllm_answers import Answers
from models.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, RateLimited, ReplicaLost
from models.tasks.chat import GenerationRequest
from models.tasks.tokens import TokenizeRequest

END, STOPPING = 2, 7
MESSAGES = [{"role": "user", "content": "one"}]


class Serving:
    """ray.serve.llm's engine. `answer` is what it gives; an exception is raised."""

    def __init__(self):
        self.asked: list[Any] = []
        self.answer: Any = None
        self.text = ""
        part = SimpleNamespace(create_error_response=lambda message, *rest: message)
        self._app_state = SimpleNamespace(
            openai_serving_chat=part,
            openai_serving_completion=part,
            serving_tokenization=SimpleNamespace(
                create_tokenize=self.tokenize, create_error_response=lambda message, *rest: message
            ),
        )
        renderer = SimpleNamespace(
            get_eos_token_id=lambda: END,
            tokenizer=SimpleNamespace(truncation_side="right"),
            _executor=ThreadPoolExecutor(1),
            _tokenize_prompt=lambda prompt, params: {"prompt_token_ids": prompt["prompt"].split()},
        )
        renderer.tokenizer = Words()
        part.online_renderer = SimpleNamespace(renderer=SimpleNamespace(get_tokenizer=Words), parser=None)
        config = SimpleNamespace(get_vocab_size=lambda: 100, try_get_generation_config=dict)
        limits = SimpleNamespace(max_num_batched_tokens=256, long_prefill_token_threshold=0, max_num_seqs=16)
        self._engine_client = SimpleNamespace(
            renderer=renderer,
            model_config=config,
            vllm_config=SimpleNamespace(scheduler_config=limits),
            errored=False,
            generate=lambda prompt, *rest: prompt,
        )

    async def chat(self, request):
        self.asked.append(request)
        for item in self.answer if isinstance(self.answer, list) else [self.answer]:
            if isinstance(item, Exception):
                raise item
            yield item

    completions = chat

    async def tokenize(self, request, raw_request):
        params = SimpleNamespace(truncate_prompt_tokens=None, max_total_tokens=None)
        prompt = await self._engine_client.renderer._tokenize_prompt_async({"prompt": request.prompt}, params)
        return SimpleNamespace(tokens=[1] * len(prompt["prompt_token_ids"]), token_strs=None)


class Words:
    truncation_side = "right"

    def __init__(self):
        self.read = 0

    def __call__(self, text, **options):
        self.read += len(text)
        return {"input_ids": text.split()}


class Whole(BaseModel):
    choices: list[dict[str, Any]] = []
    usage: dict[str, int] = {"prompt_tokens": 1, "completion_tokens": 1}


@pytest.fixture
def serving():
    return Serving()


@pytest.fixture
def engine(serving):
    return Engine(row(CHAT)[0], serving)


async def chat(engine, **body):
    return [item async for item in engine.chat(GenerationRequest({"messages": MESSAGES, **body}, "r"))]


async def complete(engine, **body):
    return [item async for item in engine.complete(GenerationRequest({"prompt": "one", **body}, "r"))]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (VLLMValidationError("n is wrong", parameter="n", value="a client's words"), InvalidRequest, "n is wrong."),
        (VLLMValidationError("too many", parameter="input_tokens"), ContextLengthExceeded, "too many."),
        (VLLMValidationError("is the maximum model length of 9"), ContextLengthExceeded, "maximum"),
        (LoRAAdapterNotFoundError("a", "/secret"), InvalidRequest, "cannot read this request"),
        (ValueError("/secret/path"), InvalidRequest, "cannot read this request"),
        (TypeError("secret"), InvalidRequest, "cannot read this request"),
        (OverflowError("secret"), InvalidRequest, "cannot read this request"),
        (NotImplementedError("secret"), InvalidRequest, "cannot read this request"),
        (RecursionError("secret"), InvalidRequest, "cannot read this request"),
        (TemplateError("secret"), InvalidRequest, "chat template"),
        (QueueOverflowError(), RateLimited, "too many requests"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("ask", [chat, complete])
async def test_what_vllm_refuses_is_the_clients_error(engine, ask, error, kind, said):
    engine.serving.answer = error
    with pytest.raises(kind, match=said) as caught:
        await ask(engine)
    assert "secret" not in caught.value.message
    assert "words" not in caught.value.message
    if kind is ContextLengthExceeded:
        assert caught.value.param == ("messages" if ask is chat else "prompt")


async def test_vllm_makes_no_error_values_of_exceptions(engine, serving):
    make = serving._app_state.openai_serving_chat.create_error_response
    with pytest.raises(VLLMValidationError):
        make(VLLMValidationError("n is wrong"))
    assert make("a text") == "a text"


@pytest.mark.parametrize("error", [RuntimeError("secret"), KeyError("secret"), AssertionError()])
async def test_a_failure_is_none_of_the_clients(engine, serving, error):
    serving.answer = error
    with pytest.raises(type(error)):
        await chat(engine)
    serving._engine_client.errored = True
    with pytest.raises(ReplicaLost):
        await chat(engine)


async def test_once_an_answer_has_begun_an_error_is_a_failure(engine, serving):
    serving.answer = ['data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', ValueError("secret")]
    with pytest.raises(ValueError, match="secret"):
        await chat(engine, stream=True)
    serving.answer[1] = 'data: {"error": {"message": "secret"}}\n\n'
    with pytest.raises(EngineFailed):
        await chat(engine, stream=True)


@pytest.mark.parametrize("body", [{"messages": "text"}, {"tools": []}, {"min_tokens": "x"}, {"logit_bias": {"5": "x"}}])
async def test_what_vllms_own_models_refuse_is_the_clients_error(engine, body):
    with pytest.raises(InvalidRequest):
        await chat(engine, **body)


@pytest.mark.parametrize("stop", ["one", [f"stop {number}" for number in range(16)]])
async def test_as_many_stops_are_passed_on_as_we_take(engine, serving, stop):
    serving.answer = Whole()
    await chat(engine, stop=stop)
    assert serving.asked[0].stop == stop


async def test_ids_that_the_table_does_not_have_never_reach_vllm(engine, serving):
    for body in ({"prompt": [100]}, {"prompt": [[1], [100]]}, {"stop_token_ids": [100]}, {"logit_bias": {"100": 1}}):
        with pytest.raises(InvalidRequest):
            await complete(engine, **body)
    assert not serving.asked
    generate = serving._engine_client.generate
    assert generate({"prompt_token_ids": [99]}, "params") == {"prompt_token_ids": [99]}
    with pytest.raises(InvalidRequest, match="special token"):
        generate({"prompt_token_ids": [100]}, "params")


async def test_a_long_text_is_refused_before_it_is_tokenized(engine, serving):
    words = serving._engine_client.renderer.tokenizer
    with pytest.raises(ContextLengthExceeded) as caught:
        await engine.tokenize(TokenizeRequest("word " * 1_000_000))
    assert caught.value.param == "prompt"
    assert words.read < 200_000
    assert len((await engine.tokenize(TokenizeRequest("word " * 10_000))).tokens) == 10_000


def read_as(body, *items, chat=True):
    """What clients read of a stream, and what vLLM is asked for in addition."""
    answers = Answers(body, chat=chat, ends=frozenset({END}))
    read = [answers.event(f"data: {json.dumps(item, separators=(',', ':'))}\n\n") for item in items]
    return [json.loads(item[6:]) for item in read if item], answers.asked


def part(text, token, *, logprobs=True, end=None, reason=None, **rest):
    delta = {} if text is None else {"content": text}
    entries = {"content": [{"token": str(token), "logprob": -1.0}]} if logprobs else None
    choice = {"index": 0, "delta": delta, "logprobs": entries, "finish_reason": end, "stop_reason": reason}
    return {"choices": [{**choice, "token_ids": [token]}], **rest}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}}


def entries(stream):
    return [e["token"] for item in stream for c in item["choices"] if c["logprobs"] for e in c["logprobs"]["content"]]


def test_a_token_without_text_keeps_its_log_probability():
    first, second, end = part(None, 5), part("é", 6), part(None, END, end="stop")
    stream, asked = read_as({"logprobs": True, "stream": True}, first, second, end, USAGE)
    assert asked == {"return_token_ids": True}
    assert entries(stream) == ["5", "6"]
    assert stream[2]["choices"][0]["logprobs"] is None
    assert stream[-1]["usage"] == {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}
    assert "token_ids" not in json.dumps(stream)


@pytest.mark.parametrize(
    ("end", "reason", "token", "body", "left"),
    [
        ("stop", None, END, {}, ["5"]),
        ("stop", STOPPING, STOPPING, {"stop_token_ids": [STOPPING]}, ["5"]),
        ("stop", "é", 6, {}, ["5", "6"]),
        ("length", None, 6, {}, ["5", "6"]),
        ("stop", STOPPING, STOPPING, {"stop_token_ids": [STOPPING], "include_stop_str_in_output": True}, ["5", "7"]),
    ],
)
def test_the_token_that_ends_an_answer_is_not_told_of(end, reason, token, body, left):
    last = part("", token, end=end, reason=reason)
    stream, _ = read_as({"logprobs": True, "stream": True, **body}, part("a", 5), last)
    assert entries(stream) == left
    entry = {"token": str(token)}
    choice = {"message": {"role": "assistant", "content": "a"}, "finish_reason": end, "stop_reason": reason}
    choice |= {"logprobs": {"content": [{"token": "5"}, entry]}, "index": 0}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    answers = Answers({"logprobs": True, **body}, chat=True, ends=frozenset({END}))
    whole = json.loads(answers.whole({"choices": [choice], "usage": usage}))
    assert [entry["token"] for entry in whole["choices"][0]["logprobs"]["content"]] == left
    assert whole["usage"]["completion_tokens"] == len(left)


def test_of_a_text_completion_all_lists_are_cut_alike():
    lists = {name: [1, 2] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "logprobs": lists}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    answers = Answers({"logprobs": 1}, chat=False, ends=frozenset({END}))
    assert answers.asked == {}  # token ids would take the echo away
    whole = json.loads(answers.whole({"choices": [choice], "usage": usage}))
    assert whole["choices"][0]["logprobs"] == {name: [1] for name in lists}
    assert whole["usage"]["total_tokens"] == 4


def test_nothing_is_counted_where_nothing_was_to_be_written():
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    choice = {"index": 0, "text": "The sky", "finish_reason": "length"}
    answers = Answers({"max_tokens": 0, "echo": True}, chat=False, ends=frozenset({END}))
    assert json.loads(answers.whole({"choices": [choice], "usage": usage}))["usage"]["completion_tokens"] == 0


TOOLS = {"tools": [{}], "tool_choice": "required", "stream": True}


def test_a_call_that_is_cut_says_so():
    cut, whole = part(None, 6, logprobs=False, end="tool_calls"), part(None, END, logprobs=False, end="tool_calls")
    assert read_as(TOOLS, cut)[0][0]["choices"][0]["finish_reason"] == "length"
    assert read_as(TOOLS, whole)[0][0]["choices"][0]["finish_reason"] == "tool_calls"
    assert read_as(TOOLS, part(None, 6, logprobs=False))[0] == []  # nothing is left of it
    message = {"role": "assistant", "content": '<tool_call>{"na'}
    answers = Answers(TOOLS, chat=True, ends=frozenset({END}))
    document = {"choices": [{"index": 0, "message": message, "finish_reason": "length", "token_ids": [6]}]}
    assert json.loads(answers.whole(document))["choices"][0]["message"]["content"] is None


def test_an_event_that_needs_no_reading_is_passed_on_as_it_is():
    item = 'data: {"id":"1", "choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}\n\n'
    answers = Answers({"stream": True}, chat=True, ends=frozenset({END}))
    assert answers.event(item) == item.encode()
    assert answers.event("data: [DONE]\n\n") == b"data: [DONE]\n\n"
