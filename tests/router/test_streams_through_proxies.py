"""What a stream promises to those between it and its client, and to a client with a deadline."""

import pytest

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "one two three four five"}]


@pytest.fixture
def slow_chat(fake_chat):
    fake_chat.seconds_per_token = 10
    return fake_chat


async def test_no_proxy_may_keep_a_stream_back(http, chat_model):
    """nginx collects an answer before it passes it on, unless the answer says no."""
    answer = await http.post(CHAT, json={"model": chat_model, "messages": QUESTION, "stream": True})
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.usefixtures("virtual_clock", "slow_chat")
async def test_a_stream_ends_at_the_deadline_that_its_client_names(http, chat_model):
    """Its first token is there after ten seconds, so the status is 200 and the error an event."""
    body = {"model": chat_model, "messages": QUESTION, "stream": True}
    answer = await http.post(CHAT, json=body, headers={"X-Deadline": "25"})
    assert "one" in answer.text
    assert "three" not in answer.text
    assert "deadline_exceeded" in answer.text
    assert "25 s" in answer.text


@pytest.mark.usefixtures("virtual_clock", "slow_chat")
async def test_a_stream_that_has_no_token_by_its_deadline_is_504(http, chat_model, assert_error):
    body = {"model": chat_model, "messages": QUESTION, "stream": True}
    assert_error(await http.post(CHAT, json=body, headers={"X-Deadline": "5"}), 504, "deadline_exceeded")
