"""Pictures of a running cluster: many, by what is in them, and many at once. Nothing is deployed; what sleeps is woken
by its first request."""

import asyncio
import base64
import io
import json
import random
import time
from collections import Counter
from contextlib import ExitStack

import httpx
import numpy as np
import openai
import psutil
import pytest
from local_cluster import REQUEST_S
from patience import patience, wait_until
from PIL import Image

from workshop.starter.doodle.drawings import COLOURS, Drawing, draw, every_combination
from workshop.starter.doodle.judge import see

DOODLE, TURBO = "doodle", "doodle-turbo"
PROMPT = "a red circle on a blue background"


def opened(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def held_out() -> list[Drawing]:
    """The combination of the prompt that everybody tries, and 200 more that the model was never shown."""
    first = Drawing("circle", "red", "blue")
    others = [drawing for drawing in every_combination(held_out=True) if drawing != first]
    random.Random(1).shuffle(others)
    return [first, *others[:200]]


async def made(address: str, model: str, drawings: list[Drawing], at_once: int = 16) -> list[Image.Image]:
    places = asyncio.Semaphore(at_once)
    timeout = patience(REQUEST_S)
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=timeout) as client:

        async def one(seed: int, drawing: Drawing) -> Image.Image:
            prompt = drawing.caption().replace("large ", "")
            async with places:
                answer = await client.images.generate(model=model, prompt=prompt, extra_body={"seed": seed})
            return opened(answer.data[0].b64_json)

        return await asyncio.gather(*(one(seed, drawing) for seed, drawing in enumerate(drawings)))


@pytest.mark.parametrize("model", [DOODLE, TURBO])
def test_pictures_show_what_was_asked_for(cluster, model):
    drawings = held_out()
    assert len(drawings) == 201
    asyncio.run(made(cluster.address, model, drawings[:1]))  # the turbo model may have to be woken
    began = time.monotonic()
    pictures = asyncio.run(made(cluster.address, model, drawings))
    took = time.monotonic() - began
    seen = [see(picture) for picture in pictures]
    pairs = list(zip(seen, drawings, strict=True))
    colours = sum((s.colour, s.background) == (d.colour, d.background) for s, d in pairs) / len(pairs)
    shapes = sum(s.shape == d.shape for s, d in pairs) / len(pairs)
    wrong = Counter((d.shape, s.shape) for s, d in pairs if s.shape != d.shape)
    print(f"\n{model}: colours right {colours:.1%}, shapes right {shapes:.1%}, {len(pairs) / took:.2f} pictures/s")
    print(f"taken for another: {wrong.most_common(6)}")
    assert pictures[0].size == (64, 64)
    assert seen[0].colour == "red"
    assert seen[0].background == "blue"
    assert colours >= 0.95
    assert shapes >= 0.85


def test_the_answer_and_the_file_say_how_it_was_made(http):
    body = {"model": DOODLE, "prompt": PROMPT, "n": 2, "seed": 9, "steps": 10, "scheduler": "ddim"}
    answer = http.post("/v1/images/generations", json=body).json()
    assert [one["seed"] for one in answer["data"]] == [9, 10]
    assert (answer["steps"], answer["scheduler"], answer["model"]) == (10, "ddim", DOODLE)
    assert answer["usage"]["images"] == 2
    data = base64.b64decode(answer["data"][1]["b64_json"])
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in data
    assert PROMPT.encode() not in data
    assert Image.open(io.BytesIO(data)).text["seed"] == "10"


def test_a_picture_can_be_continued_beyond_its_edge(client):
    canvas = np.zeros((64, 64, 4), dtype=np.uint8)
    canvas[:, :44, :3] = COLOURS["yellow"]
    canvas[:, :44, 3] = 255
    answer = client.images.edit(
        model=DOODLE,
        image=("canvas.png", png(Image.fromarray(canvas))),
        prompt="a small blue circle on a yellow background on the right",
        extra_body={"seed": 3},
    )
    continued = np.asarray(opened(answer.data[0].b64_json).convert("RGB"))
    assert (continued[:, :44] == COLOURS["yellow"]).all()
    added = continued[:, 44:].reshape(-1, 3).astype(int)
    assert np.abs(np.median(added, axis=0) - COLOURS["yellow"]).max() < 60  # the background goes on


def test_a_variation_is_like_its_original_and_not_the_same(http):
    original = draw(Drawing("heart", "pink", "black"))
    answer = http.post(
        "/v1/images/variations",
        data={"model": DOODLE, "n": "2", "seed": "1"},
        files={"image": ("heart.png", png(original), "image/png")},
    ).json()
    varied = [opened(one["b64_json"]) for one in answer["data"]]
    assert np.asarray(varied[0]).tobytes() != np.asarray(varied[1]).tobytes()
    assert [see(one).background for one in varied] == ["black", "black"]


def test_a_client_that_leaves_frees_the_replica_long_before_it_would_have_finished(cluster, http):
    """The replica's own CPU time says whether it still works."""
    process = psutil.Process(cluster.pids()[DOODLE][0])

    def idle() -> bool:
        began = sum(process.cpu_times()[:2])
        time.sleep(1)
        return sum(process.cpu_times()[:2]) - began < 0.05

    steps = 100
    body = {"model": DOODLE, "prompt": PROMPT, "n": 2, "steps": steps, "size": "128x128", "stream": True}
    seen: dict[int, float] = {}
    with ExitStack() as streams:  # one request may not ask for so much
        for _ in range(4):
            streams.enter_context(http.stream("POST", "/v1/images/generations", json=body))
        last = http.stream("POST", "/v1/images/generations", json=body | {"progress": True})
        for line in streams.enter_context(last).iter_lines():
            if '"image_generation.progress"' in line:
                seen.setdefault(json.loads(line.removeprefix("data: "))["step"], time.monotonic())
            if len(seen) == 6:
                break
        a_step = (max(seen.values()) - min(seen.values())) / 5
        assert not idle()
    left = time.monotonic()
    wait_until(idle, "the replica to be idle", every=0.0)
    assert time.monotonic() - left < (steps - max(seen)) * a_step / 3


def test_fifty_at_once_of_mixed_sizes_all_get_pictures(cluster):
    """The queue has room for all, also before Serve hands the first of them to the replica."""
    process = cluster.pids()[DOODLE]
    sizes = ["64x64", "32x32", "96x64", "64x96", "128x128"]

    async def flood() -> None:
        limits = httpx.Limits(max_connections=64)
        timeout = patience(REQUEST_S)
        async with httpx.AsyncClient(base_url=cluster.address, timeout=timeout, trust_env=False, limits=limits) as http:

            async def one(number: int) -> None:
                body = {"model": DOODLE, "prompt": PROMPT, "size": sizes[number % 5], "n": 1 + number % 2, "steps": 4}
                response = await http.post("/v1/images/generations", json=body)
                assert response.status_code == 200, response.text
                assert len(response.json()["data"]) == body["n"]

            await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(flood())
    assert cluster.pids()[DOODLE] == process
