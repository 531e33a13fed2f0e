"""The image server on the fake engine, outside of Serve."""

import asyncio
import io
import threading

import numpy as np
import pytest
from patience import patience, until
from PIL import Image
from replicas import started

from deployments.servers.denoising import preview_steps
from models.errors import ContentPolicyViolation, InvalidMedia, InvalidRequest, OutOfMemory
from models.media.formats import Output
from models.specs import ModelSpec
from models.tasks.images import EncodedImage, ImageRequest, ImageResult, ImageSettings, PartialImage, Progress
from models.tasks.usage import IMAGES, PROMPT_TOKENS, Usage

SETTINGS = ImageSettings(
    width=64,
    height=64,
    smallest=32,
    largest=128,
    multiple=8,
    most_megapixels=0.02,
    steps=4,
    guidance=4,
    scheduler="fake",
)
SPEC = ModelSpec.model_validate(
    {
        "id": "fake-images",
        "task": "images",
        "title": "Fake",
        "licence": "none",
        "owner": "tests",
        "source": {"kind": "none"},
        "limits": {"context_tokens": 24, "megapixels": 1},
        "settings": SETTINGS.model_dump(),
        "default_variant": "fake",
        "variants": {"fake": {"backend": "fake", "precision": "fp32", "needs": {"cpus": 0, "memory_gib": 1}}},
    }
)


@pytest.fixture
async def server():
    return await started(SPEC)


def png(pixels, mode=None):
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG")
    return file.getvalue()


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)))


async def everything(items):
    return [item async for item in items]


async def test_pictures_with_their_seeds_and_how_they_were_made(server):
    result = await server.make(ImageRequest("a red thing", n=3, seed=7))
    assert [image.seed for image in result.images] == [7, 8, 9]
    assert [image.index for image in result.images] == [0, 1, 2]
    assert (result.width, result.height, result.steps, result.guidance) == (64, 64, 4, 4)
    assert (result.scheduler, result.variant, result.format) == ("fake", "fake", "png")
    assert result.usage == Usage({PROMPT_TOKENS: 3, IMAGES: 3})
    for image in result.images:
        red, green, blue = opened(image.data).reshape(-1, 3).mean(0)
        assert red > 200
        assert max(green, blue) < 50


async def test_the_same_seed_gives_the_same_bytes_and_no_seed_another_picture(server):
    first, again = [await server.make(ImageRequest("blue", seed=1)) for _ in range(2)]
    assert first.images[0].data == again.images[0].data
    drawn = {(await server.make(ImageRequest("blue"))).images[0].seed for _ in range(4)}
    assert len(drawn) == 4


async def test_a_file_says_how_it_was_made_and_not_what_was_asked_for(server):
    for kind in ("png", "jpeg", "webp"):
        result = await server.make(ImageRequest("a secretword", seed=5, output=Output(kind)))
        data = result.images[0].data
        assert b"trainedAlgorithmicMedia" in data
        assert b"fake-images" in data
        assert b"secretword" not in data


async def test_a_stream_tells_of_every_step_and_shows_what_was_asked_for(server):
    items = await everything(server.make_stream(ImageRequest("green", n=2, seed=1, partial_images=2)))
    assert isinstance(items[0], Progress)
    for index in (0, 1):
        steps = [item.step for item in items if isinstance(item, Progress) and item.index == index]
        assert steps == [1, 2, 3, 4]
        partial = [item.partial_index for item in items if isinstance(item, PartialImage) and item.index == index]
        assert partial == [0, 1]
    assert sum(isinstance(item, EncodedImage) for item in items) == 2
    assert items[-2] == Usage({PROMPT_TOKENS: 1, IMAGES: 2})
    assert isinstance(items[-1], ImageResult)


async def test_only_what_the_mask_says_is_repainted(server):
    original = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    mask = np.full((50, 70, 4), 255, dtype=np.uint8)
    mask[10:30, 20:40, 3] = 0
    result = await server.make(ImageRequest("red", image=png(original), mask=png(mask), seed=1))
    edited = opened(result.images[0].data)
    assert edited.shape == original.shape
    kept = np.ones((50, 70), dtype=bool)
    kept[10:30, 20:40] = False
    assert (edited[kept] == original[kept]).all()
    assert edited[12:28, 22:38, 0].mean() > 200


async def test_white_of_an_opaque_mask_is_repainted(server):
    original = np.zeros((64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:32] = 255
    edited = opened(
        (await server.make(ImageRequest("red", image=png(original), mask=png(mask), seed=1))).images[0].data
    )
    assert edited[:32, :, 0].mean() > 200
    assert not edited[32:].any()


async def test_transparent_parts_of_the_picture_are_painted(server):
    original = np.full((64, 64, 4), 255, dtype=np.uint8)
    original[:, :20, 3] = 0
    edited = opened((await server.make(ImageRequest("blue", image=png(original), seed=1))).images[0].data)
    assert edited.shape == (64, 64, 3)
    assert edited[:, :18, 2].mean() > 150 > edited[:, :18, 0].mean()
    assert (edited[:, 20:] == 255).all()


@pytest.mark.parametrize(
    ("change", "kind", "param"),
    [
        ({"scheduler": "nope"}, InvalidRequest, "scheduler"),
        ({"prompt": "unspeakable"}, InvalidRequest, "prompt"),
        ({"image": b"no picture"}, InvalidMedia, "image"),
        ({"width": 2048, "height": 2048}, OutOfMemory, "size"),
    ],
)
async def test_refusals(server, change, kind, param, monkeypatch):
    if kind is OutOfMemory:
        monkeypatch.setattr(server.engine, "largest_batch", lambda width, height: 0)
    with pytest.raises(kind) as caught:
        await server.make(ImageRequest(**{"prompt": "red", **change}))
    assert caught.value.param == param


async def test_a_mask_of_another_size_and_one_without_anything_to_repaint_are_refused(server):
    picture = png(np.zeros((64, 64, 3), dtype=np.uint8))
    with pytest.raises(InvalidMedia, match="32x32"):
        await server.make(ImageRequest("red", image=picture, mask=png(np.zeros((32, 32), dtype=np.uint8))))
    with pytest.raises(InvalidMedia, match="nothing"):
        await server.make(ImageRequest("red", image=picture, mask=png(np.zeros((64, 64), dtype=np.uint8))))


async def test_a_withheld_picture_is_an_error_and_its_file_does_not_leave(server):
    class Strict:
        async def check(self, pictures):
            raise ContentPolicyViolation("withheld")

    server.guard = Strict()
    with pytest.raises(ContentPolicyViolation):
        await server.make(ImageRequest("red", seed=1))
    with pytest.raises(ContentPolicyViolation):
        await everything(server.make_stream(ImageRequest("red", seed=1, partial_images=1)))


async def test_cancelled_requests_stop_their_pictures(server):
    begun, step, go = [], server.engine.step, threading.Semaphore(0)

    def held(batch):
        begun.append(len(batch))
        assert go.acquire(timeout=patience())
        step(batch)

    server.engine.step = held
    leaving = asyncio.create_task(server.make(ImageRequest("red", n=2, steps=100, seed=1)))
    go.release(3)
    await until(lambda: sum(begun) == 8, "the fourth step of both")
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    staying = asyncio.create_task(server.make(ImageRequest("red", n=1, steps=4, seed=1)))
    go.release(100)
    assert len((await staying).images) == 1
    assert begun == [2, 2, 2, 2, 1, 1, 1, 1]


def test_previews_are_spread_over_the_steps():
    assert preview_steps(20, 0) == frozenset()
    assert preview_steps(20, 3) == {5, 10, 15}
    assert preview_steps(1, 3) == {1}
