"""The server of upscalers on the fake engine, and what it shares with others that change one picture."""

import asyncio
import io
import threading

import numpy as np
import pytest
from patience import patience, until
from picture_servers import file_of, noise, opened, ready
from PIL import Image

from deployments.servers.upscaling import Server as UpscalingServer
from models.engines.upscaling_fake import Engine as FakeUpscaling
from models.errors import EngineFailed, InvalidMedia, OutOfMemory, PayloadTooLarge
from models.media.encoding import EDITED
from models.media.formats import Output
from models.tasks.upscaling import UpscaleRequest
from models.tasks.usage import IMAGES, Usage

MODEL = "realesr-animevideov3"


class SlowUpscaling(FakeUpscaling):
    """Works until it is let go, looking up now and then. Notes what it was given and whether two calls overlapped."""

    def __init__(self):
        super().__init__(4)
        self.go, self.begun, self.left = threading.Event(), threading.Semaphore(0), threading.Event()
        self.go.set()
        self.given, self.busy, self.overlapped = [], False, False

    def upscale(self, image, on_layer=lambda: None):
        self.overlapped = self.overlapped or self.busy
        self.busy = True
        self.given.append(image.shape[1])
        self.begun.release()
        try:
            while not self.go.wait(0.005):
                on_layer()
            return super().upscale(image)
        except Exception:
            self.left.set()
            raise
        finally:
            self.busy = False


async def queued(server, count):
    """So many calls wait for the engine."""
    waiting = server._engine_thread._work_queue
    await until(lambda: waiting.qsize() == count, f"{count} calls wait for their turn")


class FailingUpscaling(FakeUpscaling):
    error: Exception | None = None

    def upscale(self, image, on_layer=lambda: None):
        if self.error is not None:
            raise self.error
        return super().upscale(image)


@pytest.fixture
async def server():
    return await ready(UpscalingServer, MODEL, FakeUpscaling(4))


async def test_the_answer_is_four_times_as_large_and_says_how_it_was_made(server):
    image = noise()
    result = await server.upscale(UpscaleRequest(file_of(image)))
    assert (result.width, result.height, result.usage) == (160, 96, Usage({IMAGES: 1}))
    picture = opened(result.data)
    np.testing.assert_array_equal(np.asarray(picture), image.repeat(4, 0).repeat(4, 1))
    assert picture.info["model"] == MODEL
    assert picture.info["variant"] == "fake"
    assert picture.info["scale"] == "4"
    assert EDITED.encode() in result.data


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
async def test_other_formats(server, kind):
    result = await server.upscale(UpscaleRequest(file_of(noise()), Output(kind, 80)))
    picture = opened(result.data)
    assert (picture.format.lower(), picture.size) == (kind, (160, 96))


def half_transparent() -> np.ndarray:
    """Its left half is opaque."""
    alpha = np.zeros((24, 40, 1), np.uint8)
    alpha[:, :20] = 255
    return np.concatenate((np.zeros((24, 40, 3), np.uint8), alpha), axis=2)


async def test_transparency_is_enlarged_with_the_picture(server):
    result = await server.upscale(UpscaleRequest(file_of(half_transparent())))
    alpha = np.asarray(opened(result.data))[..., 3]
    assert alpha.shape == (96, 160)
    assert alpha[:, :72].min() == 255
    assert alpha[:, 88:].max() == 0


@pytest.mark.parametrize("output", [Output("jpeg"), Output(background="opaque")])
async def test_without_an_alpha_channel_it_lies_on_white(server, output):
    result = await server.upscale(UpscaleRequest(file_of(half_transparent()), output))
    picture = np.asarray(opened(result.data))
    assert picture.shape == (96, 160, 3)
    assert picture[:, :60].max() < 10
    assert picture[:, 100:].min() > 245


async def test_what_cannot_be_read_is_refused(server):
    with pytest.raises(InvalidMedia) as caught:
        await server.upscale(UpscaleRequest(b"no picture"))
    assert caught.value.param == "image"
    large = io.BytesIO()
    Image.new("1", (2000, 1001)).save(large, "PNG")
    with pytest.raises(PayloadTooLarge, match="2 are read") as caught:
        await server.upscale(UpscaleRequest(large.getvalue()))
    assert caught.value.param == "image"


async def test_calls_take_turns_and_do_not_hold_up_the_loop():
    engine = SlowUpscaling()
    server = await ready(UpscalingServer, MODEL, engine)
    engine.go.clear()
    calls = [asyncio.create_task(server.upscale(UpscaleRequest(file_of(noise(24, 40 + n))))) for n in range(4)]
    # The loop is not held up: it sees to this while the engine works, after its warm-up, at one of the calls.
    await until(lambda: len(engine.given) == 2, "the engine works at the first call")
    await queued(server, 3)
    assert len(engine.given) == 2
    engine.go.set()
    results = await asyncio.gather(*calls)
    assert [result.width for result in results] == [160, 164, 168, 172]
    assert not engine.overlapped


async def test_who_leaves_while_waiting_is_not_worked_for():
    engine = SlowUpscaling()
    server = await ready(UpscalingServer, MODEL, engine)
    engine.begun.acquire()
    engine.go.clear()
    first = asyncio.create_task(server.upscale(UpscaleRequest(file_of(noise(24, 41)))))
    await asyncio.to_thread(engine.begun.acquire)
    second = asyncio.create_task(server.upscale(UpscaleRequest(file_of(noise(24, 42)))))
    await queued(server, 1)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    engine.go.set()
    assert (await first).width == 164
    assert (await server.upscale(UpscaleRequest(file_of(noise(24, 43))))).width == 172
    assert engine.given == [64, 41, 43]  # 64: the warm-up


async def test_who_leaves_in_the_middle_stops_the_work():
    engine = SlowUpscaling()
    server = await ready(UpscalingServer, MODEL, engine)
    engine.begun.acquire()
    engine.go.clear()
    call = asyncio.create_task(server.upscale(UpscaleRequest(file_of(noise()))))
    await asyncio.to_thread(engine.begun.acquire)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(engine.left.wait, patience())
    engine.go.set()
    assert (await server.upscale(UpscaleRequest(file_of(noise())))).width == 160


@pytest.mark.parametrize(
    ("error", "answer"), [(OutOfMemory("too large"), OutOfMemory), (ValueError("secret words"), EngineFailed)]
)
async def test_an_engines_error_is_answered_without_its_words(error, answer):
    engine = FailingUpscaling(4)
    server = await ready(UpscalingServer, MODEL, engine)
    engine.error = error
    with pytest.raises(answer) as caught:
        await server.upscale(UpscaleRequest(file_of(noise())))
    assert "secret" not in str(caught.value)
    engine.error = None
    assert (await server.upscale(UpscaleRequest(file_of(noise())))).width == 160
