"""Images on the starter cluster: real models, judged by what is in the pictures."""

import asyncio
import base64
import io
import random
import time
from collections import Counter

import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image

from models.catalog import load_catalog
from models.starter.doodle.drawings import COLOURS, Drawing, draw, every_combination
from models.starter.doodle.judge import see

DOODLE, TURBO, UPSCALER, STYLES = "doodle", "doodle-turbo", "realesr-animevideov3", "magenta-styles"
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
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300) as client:

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


def test_the_same_seed_gives_identical_bytes(client):
    ask = {"model": DOODLE, "prompt": PROMPT, "extra_body": {"seed": 5}}
    first, again = (client.images.generate(**ask).data[0].b64_json for _ in range(2))
    assert first == again
    other = client.images.generate(model=DOODLE, prompt=PROMPT, extra_body={"seed": 6}).data[0].b64_json
    assert other != first


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


def test_editing_with_a_mask_changes_only_the_masked_part(client):
    original = np.asarray(draw(Drawing("square", "green", "white")))
    mask = np.full((64, 64, 4), 255, dtype=np.uint8)
    mask[8:56, 8:56, 3] = 0
    answer = client.images.edit(
        model=DOODLE,
        image=("square.png", png(Image.fromarray(original))),
        mask=("mask.png", png(Image.fromarray(mask))),
        prompt="a red circle on a white background",
        extra_body={"seed": 3},
    )
    edited = np.asarray(opened(answer.data[0].b64_json))
    kept = mask[:, :, 3] == 255
    assert (edited[kept] == original[kept]).all()
    seen = see(Image.fromarray(edited))
    assert (seen.background, seen.colour) == ("white", "red")


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


def test_a_stream_shows_unfinished_pictures(client):
    events = list(
        client.images.generate(
            model=DOODLE, prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 4, "progress": True}
        )
    )
    types = Counter(event.type for event in events)
    assert types["image_generation.progress"] == 20
    assert types["image_generation.partial_image"] == 2
    assert events[-1].type == "image_generation.completed"
    last = see(opened(events[-1].b64_json))
    assert (last.colour, last.background) == ("red", "blue")


def test_links_work_once_signed(http):
    body = {"model": DOODLE, "prompt": PROMPT, "response_format": "url", "steps": 5}
    url = http.post("/v1/images/generations", json=body).json()["data"][0]["url"]
    assert Image.open(io.BytesIO(http.get(url).raise_for_status().content)).size == (64, 64)
    assert http.get(url[:-2] + "xx").status_code == 403


def test_upscaling_a_picture_makes_it_four_times_as_wide(http):
    original = draw(Drawing("star", "yellow", "purple"))
    answer = http.post(
        "/v1/images/upscales", data={"model": UPSCALER}, files={"image": ("star.png", png(original), "image/png")}
    )
    large = opened(answer.raise_for_status().json()["data"][0]["b64_json"])
    assert large.size == (256, 256)
    assert see(large) == see(original)


def test_styles_by_name_and_by_picture(http):
    names = http.get("/v1/images/styles", params={"model": STYLES}).raise_for_status().json()["data"]
    assert names == list(load_catalog()[STYLES].styles)
    assert len(names) == 26
    content = png(draw(Drawing("circle", "white", "gray")).resize((256, 256)))

    def styled(**form) -> np.ndarray:
        picture = form.pop("style_image", None)
        files = {"image": ("content.png", content, "image/png")}
        if picture is not None:
            files["style_image"] = ("style.png", picture, "image/png")
        answer = http.post("/v1/images/styles", data={"model": STYLES, **form}, files=files)
        return np.asarray(opened(answer.raise_for_status().json()["data"][0]["b64_json"]).convert("RGB")).astype(int)

    first, second = (styled(style=name) for name in names[:2])
    assert np.abs(first - second).mean() > 10
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::16] = 255
    redder, bluer = stripes.copy(), stripes.copy()
    redder[:, :, 0] = 255
    bluer[:, :, 2] = 255
    red = styled(style_image=png(Image.fromarray(redder))).mean((0, 1))
    blue = styled(style_image=png(Image.fromarray(bluer))).mean((0, 1))
    assert red[0] - red[2] > blue[0] - blue[2] + 20


def test_a_client_that_leaves_frees_the_replica_within_a_step(cluster):
    """The replica's own CPU time says whether it still works."""
    process = psutil.Process(cluster.pids()[DOODLE][0])
    body = {"model": DOODLE, "prompt": PROMPT, "n": 10, "steps": 100, "size": "128x128", "stream": True}
    began = time.monotonic()
    url = f"{cluster.address}/v1/images/generations"
    with (
        httpx.Client(timeout=60, trust_env=False) as http,
        http.stream("POST", url, json=body) as response,
    ):
        for _ in response.iter_lines():
            if time.monotonic() - began > 4:
                break
    time.sleep(3.0)  # the way of the news through proxy and router, and the step that was under way
    before = sum(process.cpu_times()[:2])
    time.sleep(3)
    assert sum(process.cpu_times()[:2]) - before < 0.5


def test_fifty_at_once_of_mixed_sizes_all_get_pictures(cluster):
    """The queue has room for all, also before Serve hands the first of them to the replica. Without promises, which
    refuse on a slow machine what would come too late."""
    process = cluster.pids()[DOODLE]
    sizes = ["64x64", "32x32", "96x64", "64x96", "128x128"]

    async def flood() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=cluster.address, timeout=300, trust_env=False, limits=limits) as http:

            async def one(number: int) -> None:
                body = {"model": DOODLE, "prompt": PROMPT, "size": sizes[number % 5], "n": 1 + number % 2, "steps": 4}
                response = await http.post("/v1/images/generations", json=body)
                assert response.status_code == 200, response.text
                assert len(response.json()["data"]) == body["n"]

            await asyncio.gather(*(one(number) for number in range(50)))

    with cluster.deployed(cluster.with_args("router", promises=None)):
        asyncio.run(flood())
        assert cluster.pids()[DOODLE] == process


def test_bad_pictures_are_refused(http):
    for data, status in ((b"not a picture", 400), (b"", 400), (png(Image.new("L", (5000, 5000))), 413)):
        answer = http.post(
            "/v1/images/edits",
            data={"model": DOODLE, "prompt": PROMPT},
            files={"image": ("x.png", data, "image/png")},
        )
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]
