"""OpenAI's own fields: what is absent, what is taken without effect, what is refused by name; and JSON's types."""

import pytest
from bodies import BODIES

CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
ASKED = [{"role": "user", "content": "one two"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SENT_BACK = {"role": "assistant", "content": "Hi."}


@pytest.fixture
def application(shared_application):
    """What is refused changes nothing in it."""
    return shared_application


def chat(**body) -> dict:
    return {"model": CHAT, "messages": ASKED, **body}


def complete(**body) -> dict:
    return {"model": CHAT, "prompt": "one two", **body}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((CHATS, chat(**{name: None})) for name in ("audio", "function_call", "functions", "metadata", "modalities")),
        *((CHATS, chat(**{name: None})) for name in ("prediction", "reasoning_effort", "service_tier", "store")),
        *((CHATS, chat(**{name: None})) for name in ("verbosity", "web_search_options", "moderation", "user", "stop")),
        *((CHATS, chat(**{name: None})) for name in ("prompt_cache_key", "safety_identifier", "tools", "tool_choice")),
        (CHATS, chat(messages=[*ASKED, SENT_BACK | dict.fromkeys(("annotations", "audio", "function_call"))])),
        (CHATS, chat(messages=[*ASKED, SENT_BACK | {"annotations": [], "tool_calls": None, "refusal": None}])),
        (CHATS, chat(messages=[*ASKED, SENT_BACK | {"name": None}])),
        (CHATS, chat(store=False, metadata={"a": "b"}, user="u", safety_identifier="u", prompt_cache_key="k")),
        (CHATS, chat(service_tier="auto", modalities=["text"], prompt_cache_retention="24h")),
        (CHATS, chat(service_tier="default")),
        (CHATS, chat(stream=True, stream_options={"include_obfuscation": False})),
        (CHATS, chat(tools=[])),
        (CHATS, chat(tools=[], tool_choice="auto")),
        (CHATS, chat(tools=[], tool_choice="none")),
        (CHATS, chat(tool_choice="none")),
        (CHATS, chat(stop=[])),
        (CHATS, chat(stop=[f"stop {number}" for number in range(16)])),
        (COMPLETIONS, complete(best_of=None, suffix=None, user=None)),
        (COMPLETIONS, complete(best_of=1, suffix="")),
        (COMPLETIONS, complete(max_tokens=0, echo=True)),
        (COMPLETIONS, complete(prompt=["one"] * 16)),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": "one", "user": None, "dimensions": None}),
    ],
    ids=lambda value: "" if isinstance(value, str) else str({**value, "model": ""})[12:80],
)
async def test_what_changes_nothing_is_taken(http, path, body):
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text


async def test_models_do_not_see_it(router, recorder, recording):
    body = chat(store=False, metadata={"a": "b"}, user="u", service_tier="auto", tools=[], tool_choice="auto", seed=1)
    async with router({CHAT: recording}) as http:
        assert (await http.post(CHATS, json=body)).status_code == 200
    assert recorder.bodies == [{"messages": ASKED, "seed": 1}]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHATS, chat(store=True), "store"),
        (CHATS, chat(store=0), "store"),
        (CHATS, chat(service_tier="flex"), "service_tier"),
        (CHATS, chat(modalities=["text", "audio"]), "modalities"),
        (CHATS, chat(audio={"voice": "alloy", "format": "wav"}), "audio"),
        (CHATS, chat(functions=[{"name": "f"}]), "functions"),
        (CHATS, chat(function_call="auto"), "function_call"),
        (CHATS, chat(prediction={"type": "content", "content": "a"}), "prediction"),
        (CHATS, chat(reasoning_effort="low"), "reasoning_effort"),
        (CHATS, chat(verbosity="low"), "verbosity"),
        (CHATS, chat(web_search_options={}), "web_search_options"),
        (CHATS, chat(stream=True, stream_options={"include_obfuscation": True}), "stream_options.include_obfuscation"),
        (CHATS, chat(messages=[*ASKED, SENT_BACK | {"annotations": [{}]}]), "messages[1].annotations"),
        (CHATS, chat(messages=[*ASKED, SENT_BACK | {"audio": {"id": "1"}}]), "messages[1].audio"),
        (CHATS, chat(thinking=None), "thinking"),
        (CHATS, chat(chat_template_kwargs={"tools": []}), "chat_template_kwargs.tools"),
        (CHATS, chat(chat_template_kwargs={"chat_template": "{{ 1 }}"}), "chat_template_kwargs.chat_template"),
        (CHATS, chat(chat_template_kwargs={"messages": []}), "chat_template_kwargs.messages"),
        (CHATS, chat(chat_template_kwargs={"tokenize": False}), "chat_template_kwargs.tokenize"),
        (COMPLETIONS, complete(best_of=2), "best_of"),
        (COMPLETIONS, complete(suffix="end"), "suffix"),
    ],
    ids=lambda value: value if isinstance(value, str) and not value.startswith("/") else "",
)
async def test_what_would_change_the_answer_is_refused_by_name(http, assert_error, path, body, param):
    assert assert_error(await http.post(path, json=body), 400, "unsupported_parameter")["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        (CHATS, chat(stop=[f"stop {number}" for number in range(17)]), "stop", "at most 16"),
        (CHATS, chat(stop=""), "stop", "empty"),
        (CHATS, chat(stop=["a", ""]), "stop", "empty"),
        (CHATS, chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "x"}}), "name", "weather"),
        (CHATS, chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": ""}}), "name", "weather"),
        (CHATS, chat(tools=[], tool_choice="required"), None, "needs tools"),
        (CHATS, chat(max_tokens=0), "max_tokens", ""),
        (CHATS, chat(logit_bias={"65536": 1}), "logit_bias.65536", "65535"),
        (CHATS, chat(stop_token_ids=[65536]), "stop_token_ids", "65535"),
        (COMPLETIONS, complete(max_tokens=0), None, "echo"),
        (COMPLETIONS, complete(prompt=[65536]), "prompt", "65535"),
        (COMPLETIONS, complete(prompt=[[1], [65536]]), "prompt[1]", "65535"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_reason(http, assert_error, path, body, param, said):  # noqa: PLR0917
    error = assert_error(await http.post(path, json=body), 400, "invalid_value")
    assert said in error["message"]
    assert (error["param"] or "").endswith(param or "")


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        *((CHATS, name, value) for name in ("stream", "logprobs") for value in ("yes", "true", "1", 1, 0)),
        *((CHATS, name, value) for name in ("max_tokens", "n", "seed", "top_k") for value in ("5", True, 1.5)),
        *((CHATS, name, value) for name in ("temperature", "top_p") for value in ("0.5", True)),
        (CHATS, "user", 1),
        (CHATS, "stop", 1),
        (CHATS, "metadata", {"a": 1}),
        (COMPLETIONS, "echo", "true"),
        (COMPLETIONS, "prompt", ["one", 1]),
        (COMPLETIONS, "prompt", [1, True]),
        (COMPLETIONS, "prompt", [1, "2"]),
        ("/v1/embeddings", "dimensions", "64"),
        ("/v1/embeddings", "input", [1.0]),
        ("/tokenize", "return_token_strs", "yes"),
        ("/detokenize", "tokens", ["1"]),
        ("/v1/images/generations", "n", "1"),
        ("/v1/images/generations", "stream", "false"),
    ],
)
async def test_nothing_is_made_of_another_type(http, assert_error, path, field, value):
    model = {"/v1/images/generations": "doodle-turbo"}.get(path, CHAT if "completions" in path else EMBEDDINGS)
    body = {"model": model, **BODIES[path], field: value}
    error = assert_error(await http.post(path, json=body), 400, "invalid_value")
    assert error["param"].startswith(field)


async def test_whole_numbers_are_numbers(http):
    assert (await http.post(CHATS, json=chat(temperature=1, top_p=1, frequency_penalty=0))).status_code == 200
