"""Room for pictures: what they take is held against what the replica reserved, in order of arrival."""

import asyncio
import io
import random
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import patience, until
from picture_servers import file_of, ready
from PIL import Image
from replicas import faked, started

from deployments.servers import styles, upscaling
from deployments.servers.image_memory import needed
from deployments.servers.room import SMALL, WAITING, Room
from models.catalog import load_catalog
from models.errors import PayloadTooLarge, RateLimited
from models.media.formats import Output
from models.tasks.images import Control, ImageRequest
from models.tasks.styles import StyleRequest
from models.tasks.upscaling import UpscaleRequest

LIMIT = 3200


async def entered(room: Room, size: int, files: int = 0):
    """A request inside the room, and a function that ends it."""
    inside, leave = asyncio.Event(), asyncio.Event()

    async def work():
        async with room.holds(size, files):
            inside.set()
            await leave.wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return SimpleNamespace(inside=inside.is_set, leave=leave.set, task=task)


async def test_what_does_not_fit_waits_in_order_of_arrival():
    room = Room(LIMIT)
    first, large, third = [await entered(room, size) for size in (2000, 3000, 500)]
    assert (first.inside(), large.inside(), third.inside()) == (True, False, False)
    first.leave()
    await until(large.inside, "the large one")
    assert not third.inside(), "nothing overtakes it"
    large.leave()
    await until(third.inside, "the third one")
    third.leave()
    await third.task
    assert room.taken == 0


async def test_a_small_one_does_not_wait_behind_large_ones():
    room = Room(LIMIT)
    first, large, small = [await entered(room, size) for size in (2000, 3000, int(LIMIT * SMALL))]
    assert (first.inside(), large.inside(), small.inside()) == (True, False, True)


async def test_one_that_leaves_while_it_waits_gives_way_to_the_next():
    room = Room(LIMIT)
    first, leaving, third = [await entered(room, size) for size in (2000, 3000, 1000)]
    leaving.task.cancel()
    await until(third.inside, "the third one")
    first.leave()
    third.leave()
    await asyncio.gather(first.task, third.task)
    assert room.taken == 0


async def test_whoever_leaves_when_its_turn_comes_leaves_nothing_behind():
    room = Room(LIMIT)
    first, second = [await entered(room, 3000) for _ in range(2)]
    first.leave()
    first.task.add_done_callback(lambda _: second.task.cancel())
    await asyncio.gather(first.task, second.task, return_exceptions=True)
    assert room.taken == 0


async def test_what_does_not_fit_alone_and_too_many_waiting_files_are_refused():
    room = Room(LIMIT)
    with pytest.raises(PayloadTooLarge, match="smaller"):
        async with room.holds(LIMIT + 1, 0):
            pass
    await entered(room, LIMIT)
    most = int(LIMIT * WAITING)
    await entered(room, 500, most)
    with pytest.raises(RateLimited) as refused:
        async with room.holds(500, 1):
            pass
    assert refused.value.retry_after


# What the servers ask for

DOODLE = load_catalog()["doodle"]


def blank(width: int, height: int, kind: str = "png", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return file.getvalue()


def memory_of(**request: Any) -> int:
    """Bytes that an edit of 400x300 takes."""
    image: dict[str, Any] = {"image": blank(400, 300)} | request
    settings = DOODLE.task.settings_of(DOODLE)
    return needed(ImageRequest("a", **image), settings, 16, 1 << 28).all


def test_everything_that_is_kept_is_counted():
    alone = memory_of()
    mask = blank(400, 300, mode="L")
    assert memory_of(mask=mask) > alone + len(mask)
    assert memory_of(n=4) > alone + 3 * 4 * 400 * 300
    assert memory_of(n=4, partial_images=2) > memory_of(n=4) + 8 * 4 * 400 * 300
    assert memory_of(controls=(Control("canny", blank(2000, 2000)),)) > alone + 4 * 2000 * 2000
    assert memory_of(output=Output("webp")) > alone
    assert memory_of(image=blank(400, 300, "webp")) > alone
    assert memory_of(image=None) < 1 << 20


@pytest.mark.parametrize("size", [(1_000_000, 2), (2, 1_000_000)])
def test_a_thin_picture_is_large_on_the_way(size):
    """Resized to 128x32 one side after the other, it has 128 million pixels in between."""
    assert memory_of(image=blank(*size)) > 4 * 128e6


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_largest_that_is_read_fits_into_what_is_reserved(kind):
    settings = DOODLE.task.settings_of(DOODLE)
    for spec in (DOODLE, load_catalog()["doodle-turbo"]):
        header = {"png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (4000).to_bytes(4) * 2 + bytes(9) + b"\0\0\0\0IDAT"}
        header["jpeg"] = b"\xff\xd8\xff\xc0\0\x11\x08" + (4000).to_bytes(2) * 2 + bytes(20)
        header["webp"] = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (3999).to_bytes(3, "little") * 2 + bytes(20)
        room = spec.variant(None).needs.pictures_bytes
        assert needed(ImageRequest("a", image=header[kind]), settings, 16, room).all <= room
        masked = ImageRequest("a", image=header["png"], mask=header["jpeg"])
        assert needed(masked, settings, 16, room).all <= room


async def test_large_edits_take_turns_and_a_small_picture_is_made_meanwhile():
    spec = faked(load_catalog()["doodle"])
    server = await started(spec)
    image = blank(1000, 1000, mode="RGBA")
    one = needed(ImageRequest("a", image=image), server.settings, 16, 0).all
    server._room.limit = one + (1 << 20)
    running, most, settle = [], [], server.settle
    go = threading.Semaphore(0)

    def held(request):
        if request.image is not None:
            running.append(request)
            most.append(len(running))
            assert go.acquire(timeout=patience())
            running.remove(request)
        return settle(request)

    server.settle = held
    edits = [asyncio.create_task(server.make(ImageRequest("red", image=image, width=64, height=64))) for _ in range(4)]
    await until(lambda: running, "the first edit")
    assert len((await server.make(ImageRequest("blue"))).images) == 1
    go.release(4)
    assert len(await asyncio.gather(*edits)) == 4
    assert max(most) == 1
    assert server._room.taken == 0


class Waits:
    """An engine that counts what is in it."""

    def __init__(self):
        self.seen = 0

    def upscale(self, image, on_layer=lambda: None):
        self.seen += 1
        return image.repeat(4, axis=0).repeat(4, axis=1)

    def stylize(self, image, style):
        self.seen += 1
        return image


@pytest.mark.parametrize("kind", ["upscale", "style"])
async def test_what_would_not_fit_is_refused_before_any_work(kind):
    engine = Waits()
    server_class, model = {
        "upscale": (upscaling.Server, "realesr-animevideov3"),
        "style": (styles.Server, "magenta-styles"),
    }[kind]
    server = await ready(server_class, model, engine)
    warmed = engine.seen
    server._room.limit = 5 << 20
    large, small = blank(700, 700), file_of(np.zeros((20, 30, 3), np.uint8))

    def asked(image):
        if kind == "upscale":
            return server.upscale(UpscaleRequest(image))
        return server.stylize(StyleRequest(small, image) if random.random() < 0.5 else StyleRequest(image, "charcoal"))

    with pytest.raises(PayloadTooLarge, match="MiB"):
        await asked(large)
    assert engine.seen == warmed
    server._room.limit = 20 << 20
    assert (await asked(small)).width in (30, 120)
    assert server._room.taken == 0


def test_mixing_takes_no_floats_of_the_whole_picture():
    before, after = np.zeros((1000, 2000, 3), np.uint8), np.full((1000, 2000, 3), 200, np.uint8)
    assert (styles.mix(before, after, 0.25) == 50).all()
