"""Pictures on their way, through the official client."""

import asyncio
import base64
import json
from collections import Counter

import openai
import pytest
from patience import until
from virtual_time import now


async def collected(stream) -> list:
    return [event async for event in stream]


async def test_unfinished_pictures_come_before_the_finished_one(image_client, pixels):
    stream = await image_client.images.generate(
        model="painter", prompt="a red circle", stream=True, partial_images=2, extra_body={"seed": 3}
    )
    events = await collected(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    redness = [pixels(base64.b64decode(event.b64_json)).mean((0, 1))[0] for event in events]
    assert redness == sorted(redness)
    completed = events[-1]
    assert (completed.size, completed.quality, completed.background) == ("64x64", "medium", "opaque")
    assert completed.output_format == "png"
    assert completed.usage.total_tokens == 3
    assert completed.usage.images == 1
    assert (completed.seed, completed.steps, completed.variant) == (3, 6, "fake")


async def test_a_stream_gives_what_a_whole_answer_gives(image_client):
    options = {"model": "painter", "prompt": "blue", "extra_body": {"seed": 11}}
    whole = await image_client.images.generate(**options)
    (event,) = await collected(await image_client.images.generate(**options, stream=True))
    assert event.b64_json == whole.data[0].b64_json
    assert event.type == "image_generation.completed"


async def test_each_of_several_pictures_is_completed_and_used_once(image_client):
    stream = await image_client.images.generate(
        model="painter", prompt="one two", n=3, stream=True, partial_images=1, extra_body={"seed": 5}
    )
    events = await collected(stream)
    completed = [event for event in events if event.type.endswith("completed")]
    assert sorted((event.index, event.seed) for event in completed) == [(0, 5), (1, 6), (2, 7)]
    assert len({event.b64_json for event in completed}) == 3
    assert sum(event.usage.input_tokens for event in completed) == 2
    assert sum(event.usage.images for event in completed) == 3
    assert Counter(event.index for event in events) == {0: 2, 1: 2, 2: 2}


async def test_an_edit_streams_events_of_its_own_kind(image_client, png):
    stream = await image_client.images.edit(
        model="painter", image=png("blue"), prompt="red", stream=True, partial_images=1
    )
    events = await collected(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert {event.size for event in events} == {"64x48"}


async def test_steps_are_told_only_to_who_asks(image_client):
    quiet = await collected(await image_client.images.generate(model="painter", prompt="a", stream=True))
    assert len(quiet) == 1
    told = await image_client.images.generate(model="painter", prompt="a", stream=True, extra_body={"progress": True})
    events = await collected(told)
    progress = [event for event in events if event.type == "image_generation.progress"]
    assert [(event.index, event.step, event.steps) for event in progress] == [(0, step, 6) for step in range(1, 7)]
    assert events[-1].type == "image_generation.completed"


async def test_events_are_as_openai_describes_them(images, conforms, png):
    body = {"model": "painter", "prompt": "a", "stream": True, "partial_images": 1}
    made = await images.post("/v1/images/generations", json=body)
    encoded = base64.b64encode(png()).decode()
    edited = await images.post("/v1/images/edits", json=body | {"image": encoded})
    assert made.headers["content-type"].startswith("text/event-stream")
    schemas = [
        "ImageGenPartialImageEvent",
        "ImageGenCompletedEvent",
        "ImageEditPartialImageEvent",
        "ImageEditCompletedEvent",
    ]
    blocks = [block for response in (made, edited) for block in response.text.strip().split("\n\n")]
    blocks = [block for block in blocks if block != ": working"]
    for block, schema in zip(blocks, schemas, strict=True):
        name, data = block.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        assert document["size"] in ("64x64", "64x48")
        conforms(schema, document | {"size": "auto"})  # their description lists the sizes of their own models only


async def test_a_refusal_before_the_first_event_keeps_its_status(image_client):
    with pytest.raises(openai.BadRequestError) as caught:
        await image_client.images.generate(model="painter", prompt="unspeakable", stream=True)
    assert caught.value.param == "prompt"


async def test_an_error_on_the_way_is_the_last_event_and_tells_nothing_of_the_library(image_client, painter):
    painter.engine.fail_after = 2
    painter.seconds_per_step = 1  # time enough for the first unfinished picture to be written
    stream = await image_client.images.generate(model="painter", prompt="a", stream=True, partial_images=3)
    seen = []

    async def read():
        async for event in stream:
            seen.append(event)

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert len(seen) == 1
    assert "secret" not in str(caught.value)
    assert caught.value.body["code"] == "engine_failed"


async def test_silence_is_filled_with_comments(image_router, open_http, painter):
    painter.seconds_per_step = 0.03
    async with open_http(image_router(keep_alive_s=0.02)) as http:
        response = await http.post("/v1/images/generations", json={"model": "painter", "prompt": "a", "stream": True})
    assert response.text.startswith(": waiting\n\n: working\n\n")
    assert "image_generation.completed" in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_model(image_app, painter, stream):
    painter.seconds_per_step = 0.05
    raw = json.dumps({"model": "painter", "prompt": "a", "n": 4, "stream": stream}).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/images/generations",
        "raw_path": b"/v1/images/generations",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    incoming = [{"type": "http.request", "body": raw, "more_body": False}]
    leave = asyncio.Event()

    async def receive():
        if incoming:
            return incoming.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    request = asyncio.create_task(image_app(scope, receive, send))
    await until(lambda: painter.engine.batches, "the first step", every=0.001)
    leave.set()
    left = now()
    if not stream:  # what the server does with a request whose client has left
        request.cancel()
    await asyncio.wait([request])
    assert now() == left
    assert painter.cancelled
    await asyncio.sleep(1)
    assert len(painter.engine.batches) <= 2  # the step that was under way
