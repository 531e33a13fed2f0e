import openai
import pytest


async def test_a_text_is_continued(client, chat_model):
    answer = await client.completions.create(model=chat_model, prompt="one two three")
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "one two three"
    assert answer.usage.total_tokens == 6


async def test_a_stream_adds_up_to_the_whole_text(client, chat_model):
    stream = await client.completions.create(
        model=chat_model, prompt="one two three", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage.completion_tokens == 3


async def test_n_stop_and_max_tokens_are_honoured(client, chat_model):
    answer = await client.completions.create(model=chat_model, prompt="one two three", n=2, max_tokens=2, stop="two")
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "one"), (1, "one")]


@pytest.mark.parametrize("prompt", [[1, 2, 3], ["one", "two"], [[1, 2], [3]]])
async def test_a_prompt_reaches_the_model_in_the_form_it_was_sent(
    *, client, services, recorder, recording, chat_model, prompt
):
    services.dispatcher.servers[chat_model] = recording
    await client.completions.create(model=chat_model, prompt=prompt)
    assert recorder.bodies == [{"prompt": prompt}]


@pytest.mark.parametrize("prompt", ["", [], [""], ["one", ""], [[]]])
async def test_an_empty_prompt_is_refused(client, chat_model, prompt):
    with pytest.raises(openai.BadRequestError, match="prompt is empty"):
        await client.completions.create(model=chat_model, prompt=prompt)


@pytest.mark.parametrize("wrong", [{"best_of": 2}, {"suffix": "end"}, {"messages": []}])
async def test_a_parameter_that_no_model_here_has_is_refused_by_name(client, chat_model, wrong):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=chat_model, prompt="one", extra_body=wrong)
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == next(iter(wrong))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_context_is_refused_with_its_code(client, chat_model, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=chat_model, prompt="word " * 8193, stream=stream)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("prompt", "n", "param"),
    [
        (["a"] * 40, 16, "prompt"),
        (["a"] * 1025, None, "prompt"),
        ([[1, 2]] * 17, 1, "prompt"),
        ([[1]] * 13, 5, "prompt"),
    ],
)
async def test_a_request_for_more_answers_than_a_replica_makes_at_once_is_refused(
    *, client, chat, chat_model, prompt, n, param
):
    with pytest.raises(openai.BadRequestError, match="Send several requests") as caught:
        await client.completions.create(model=chat_model, prompt=prompt, n=n)
    assert (caught.value.param, " 16. " in caught.value.message) == (param, True)
    assert chat.engine.tokens_made == 0


@pytest.mark.parametrize(
    ("prompt", "n", "sequences"),
    [("a", None, 1), ("a", 16, 16), (["a"] * 4, 4, 16), ([1] * 1000, 2, 2), ([[1]] * 16, None, 16)],
)
async def test_admission_counts_the_answers_that_are_asked_for(*, client, chat, chat_model, prompt, n, sequences):
    complete, seen = chat.engine.complete, []

    async def watched(request):
        seen.extend(job.work.width for job in chat.admission.inside)
        async for item in complete(request):
            yield item

    chat.engine.complete = watched
    await client.completions.create(model=chat_model, prompt=prompt, n=n)
    assert seen == [sequences]
    assert chat.admission.inside == []
