"""Pictures that show what was asked for; the models of most of them sleep, and are waited for."""

import asyncio
import io
from collections import Counter

import httpx
import numpy as np
import openai
import pytest
from local_cluster import REQUEST_S
from patience import patience
from picture_files import opened, pixels, png
from PIL import Image

from models.catalog import load_catalog
from workshop.starter.doodle.drawings import Drawing, draw
from workshop.starter.doodle.judge import see

DOODLE, TURBO, UPSCALER, STYLES = "doodle", "doodle-turbo", "realesr-animevideov3", "magenta-styles"
PROMPT = "a red circle on a blue background"
# The model was shown none of them.
DRAWINGS = [
    Drawing("circle", "red", "blue"),
    Drawing("star", "yellow", "purple"),
    Drawing("square", "green", "white"),
    Drawing("heart", "pink", "black"),
]


@pytest.mark.parametrize("model", [DOODLE, TURBO])
def test_pictures_asked_for_at_once_show_what_was_asked_for(cluster, model):
    async def made() -> list[Image.Image]:
        address, timeout = f"{cluster.address}/v1", patience(REQUEST_S)
        async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=timeout) as client:

            async def one(seed: int, drawing: Drawing) -> Image.Image:
                prompt = drawing.caption().replace("large ", "")
                answer = await client.images.generate(model=model, prompt=prompt, extra_body={"seed": seed})
                return opened(answer.data[0].b64_json)

            return await asyncio.gather(*(one(seed, drawing) for seed, drawing in enumerate(DRAWINGS)))

    pictures = asyncio.run(made())
    assert pictures[0].size == (64, 64)
    seen = [see(picture) for picture in pictures]
    assert [(one.colour, one.background) for one in seen] == [(one.colour, one.background) for one in DRAWINGS]
    assert sum(one.shape == asked.shape for one, asked in zip(seen, DRAWINGS, strict=True)) >= 3


def test_the_same_seed_gives_identical_bytes(client):
    ask = {"model": DOODLE, "prompt": PROMPT, "n": 1}
    first, again, other = (client.images.generate(**ask, extra_body={"seed": seed}).data[0] for seed in (5, 5, 6))
    assert first.b64_json == again.b64_json
    assert other.b64_json != first.b64_json


def test_editing_with_a_mask_changes_only_the_masked_part(client):
    original = draw(Drawing("square", "green", "white"))
    mask = np.full((64, 64, 4), 255, dtype=np.uint8)
    mask[8:56, 8:56, 3] = 0
    answer = client.images.edit(
        model=DOODLE,
        image=("square.png", png(original)),
        mask=("mask.png", png(Image.fromarray(mask))),
        prompt="a red circle on a white background",
        extra_body={"seed": 3},
    )
    edited = opened(answer.data[0].b64_json)
    kept = mask[:, :, 3] == 255
    assert (pixels(edited)[kept] == pixels(original)[kept]).all()
    seen = see(edited)
    assert (seen.background, seen.colour) == ("white", "red")


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
    files = {"image": ("star.png", png(original), "image/png")}
    answer = http.post("/v1/images/upscales", data={"model": UPSCALER}, files=files)
    large = opened(answer.raise_for_status().json()["data"][0]["b64_json"])
    assert large.size == (256, 256)
    assert see(large) == see(original)
    assert np.abs(pixels(large.resize((64, 64))) - pixels(original)).mean() < 10


def test_styles_by_name_and_by_picture(http):
    names = http.get("/v1/images/styles", params={"model": STYLES}).raise_for_status().json()["data"]
    assert names == list(load_catalog()[STYLES].settings.styles)
    content = png(draw(Drawing("circle", "white", "gray")).resize((128, 128)))

    def styled(**form) -> np.ndarray:
        picture = form.pop("style_image", None)
        files = {"image": ("content.png", content, "image/png")}
        if picture is not None:
            files["style_image"] = ("style.png", picture, "image/png")
        answer: httpx.Response = http.post("/v1/images/styles", data={"model": STYLES, **form}, files=files)
        return pixels(opened(answer.raise_for_status().json()["data"][0]["b64_json"]))

    first, second = (styled(style=name) for name in names[:2])
    assert np.abs(first - second).mean() > 10
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::16] = 255
    redder, bluer = stripes.copy(), stripes.copy()
    redder[:, :, 0] = 255
    bluer[:, :, 2] = 255
    red = styled(style_image=png(Image.fromarray(redder))).mean((0, 1))
    blue = styled(style_image=png(Image.fromarray(bluer))).mean((0, 1))
    assert red[0] - red[2] > blue[0] - blue[2] + 20


def test_bad_pictures_are_refused(http, assert_error):
    for data, status in ((b"not a picture", 400), (b"", 400), (png(Image.new("L", (5000, 5000))), 413)):
        files = {"image": ("x.png", data, "image/png")}
        assert_error(http.post("/v1/images/edits", data={"model": DOODLE, "prompt": PROMPT}, files=files), status)
