import json

import openai
import pytest

QUESTION = [{"role": "user", "content": "one two three four"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


async def test_an_answer_has_text_usage_and_a_reason_to_end(client, chat_model):
    answer = await client.chat.completions.create(model=chat_model, messages=QUESTION)
    assert answer.object == "chat.completion"
    assert answer.model == chat_model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "one two three four"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 4, 8)


async def test_a_stream_adds_up_to_the_whole_answer(client, chat_model):
    stream = await client.chat.completions.create(model=chat_model, messages=QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three four"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_stream_is_server_sent_events_that_end_with_done(http, chat_model):
    body = {"model": chat_model, "messages": QUESTION, "stream": True}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])


async def test_include_usage_sends_token_counts_in_the_last_chunk(client, chat_model):
    stream = await client.chat.completions.create(
        model=chat_model, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert last.usage.total_tokens == 8
    assert all(chunk.usage is None for chunk in chunks)


async def test_n_gives_that_many_choices(client, chat_model):
    answer = await client.chat.completions.create(model=chat_model, messages=QUESTION, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 12


async def test_n_gives_that_many_choices_in_a_stream(client, chat_model):
    stream = await client.chat.completions.create(model=chat_model, messages=QUESTION, n=2, stream=True)
    texts = ["", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["one two three four"] * 2


@pytest.mark.parametrize("stop", ["three", ["three", "four"]])
async def test_stop_ends_the_answer_before_the_stop_text(client, chat_model, stop):
    answer = await client.chat.completions.create(model=chat_model, messages=QUESTION, stop=stop)
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_on_tokens_cuts_the_answer(client, chat_model, name):
    answer = await client.chat.completions.create(model=chat_model, messages=QUESTION, **{name: 2})
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "length"


async def test_logprobs_come_with_every_token(client, chat_model):
    answer = await client.chat.completions.create(model=chat_model, messages=QUESTION, logprobs=True, top_logprobs=2)
    assert [entry.token for entry in answer.choices[0].logprobs.content] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_forced_tool_is_called(client, chat_model, choice):
    answer = await client.chat.completions.create(
        model=chat_model, messages=QUESTION, tools=[WEATHER], tool_choice=choice
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {}


async def test_a_tool_result_is_read_back(client, chat_model):
    call = {"id": "call-0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-0", "content": "sunny"},
    ]
    answer = await client.chat.completions.create(model=chat_model, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "sunny"


async def test_a_json_schema_is_passed_to_the_model(client, chat_model):
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    answer = await client.chat.completions.create(
        model=chat_model,
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
    )
    assert json.loads(answer.choices[0].message.content) == {"answer": "one two three four"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_would_not_be_honoured_is_refused_before_anything_is_sent(http, chat_model, path, stream):
    schema = {"type": "object", "properties": {"a": {"type": "string", "not": {"const": "x"}}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {"model": chat_model, "messages": QUESTION, "prompt": "a", "response_format": form, "stream": stream}
    del body["prompt" if "chat" in path else "messages"]
    response = await http.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "response_format.json_schema.schema.properties.a.not"


async def test_the_model_gets_what_was_sent_with_developer_as_system(router, recorder, recording, chat_model):
    body = {
        "model": chat_model,
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "temperature": 0,
        "seed": 7,
        "top_p": None,
    }
    async with router({chat_model: recording}) as http:
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert recorder.bodies == [
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            "temperature": 0,
            "seed": 7,
        }
    ]


async def test_a_message_may_be_a_list_of_text_parts(client, chat_model):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    answer = await client.chat.completions.create(model=chat_model, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "one two"


async def test_parameters_of_vllm_are_passed_on(client, recorder, recording, services, chat_model):
    services.dispatcher.servers[chat_model] = recording
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "chat_template_kwargs": {"thinking": False}}
    await client.chat.completions.create(model=chat_model, messages=QUESTION, extra_body=extra)
    assert extra.items() <= recorder.bodies[0].items()


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logit_bias": {"5": 1000}}, "logit_bias.5"),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"top_logprobs": 3}, None),
        ({"tool_choice": "required"}, None),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
async def test_a_wrong_value_is_refused_by_name(client, chat_model, wrong, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**({"model": chat_model, "messages": QUESTION} | wrong))
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param


async def test_tools_are_refused_by_a_model_that_cannot_call_them(router, chat, assert_error):
    body = {"model": "falcon-7b-instruct", "messages": QUESTION, "tools": [WEATHER]}
    async with router({"falcon-7b-instruct": chat}) as http:
        error = assert_error(await http.post("/v1/chat/completions", json=body), 400, "unsupported_parameter")
    assert error["param"] == "tools"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_context_is_refused_with_its_code(client, chat_model, stream):
    messages = [{"role": "user", "content": "word " * 8193}]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=chat_model, messages=messages, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert "8192" in caught.value.message
