"""The router over fake image models: real HTTP, real files, pictures out of FakeImages."""

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from clients import http_client, official_client
from fastapi import FastAPI
from local_dispatcher import LocalDispatcher
from PIL import Image
from replicas import CHAT, EMBEDDINGS, at_once, chat_server, embedding_server, started
from small_models import PAINTER, STYLER, TURBO, UPSCALER

from deployments.router.application import create_application
from deployments.router.dispatch import ModelState
from deployments.router.media_store import FolderStore
from deployments.router.services import Services
from deployments.servers.images import Server as ImageServer
from models.catalog import Catalog, load_catalog
from models.engines.images_fake import Engine as FakeImages
from models.media.decoding import decode_image
from models.tasks.images import MAKE_STREAM, ImageRequest
from models.tasks.methods import handles


class Breaking(FakeImages):
    """Breaks after so many steps, if it is told to."""

    fail_after: int | None = None

    def step(self, batch: Any) -> None:
        if len(self.batches) == self.fail_after:
            raise RuntimeError("secret text of a library")
        super().step(batch)


class Painter(ImageServer):
    """The server of image models. It keeps the requests, and its steps take so long."""

    requests: list[ImageRequest]
    engine: Breaking
    seconds_per_step = 0.0
    cancelled = False

    async def warm_up(self) -> None:
        self.requests = []
        await super().warm_up()
        self.requests.clear()
        self.engine.batches.clear()
        step = self.denoising._step

        async def paced(batch: Any) -> None:
            await asyncio.sleep(self.seconds_per_step)
            await step(batch)

        self.denoising._step = paced

    @handles(MAKE_STREAM)
    async def make_stream(self, request: ImageRequest) -> AsyncGenerator[Any, None]:
        self.requests.append(request)
        try:
            async with aclosing(super().make_stream(request)) as items:
                async for item in items:
                    yield item
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise


def keeping_requests(server: Any, method: str) -> Any:
    """The server, with a list of what its method was asked."""
    handle, server.requests = getattr(server, method), []

    async def kept(request: Any) -> Any:
        server.requests.append(request)
        return await handle(request)

    setattr(server, method, kept)
    return server


@pytest.fixture(autouse=True)
def time_is_virtual(virtual_clock: None) -> None:
    """Nothing here waits in real time."""


@pytest.fixture
def painter() -> Painter:
    return at_once(started(PAINTER, Painter, Breaking))


@pytest.fixture
def turbo() -> Painter:
    return at_once(started(TURBO, Painter, Breaking))


@pytest.fixture
def upscaler() -> Any:
    return keeping_requests(at_once(started(UPSCALER)), "upscale")


@pytest.fixture
def styler() -> Any:
    return keeping_requests(at_once(started(STYLER)), "stylize")


def application_of_images(
    servers: dict[str, Any], folder: Path, states: dict[str, ModelState] | None = None, **limits: Any
) -> FastAPI:
    limits.setdefault("media", FolderStore(folder, 60, 1 << 20))
    catalog = Catalog([PAINTER, TURBO, UPSCALER, STYLER])
    return create_application(Services(catalog, LocalDispatcher(servers, states), **limits))


@pytest.fixture
def image_router(*, painter, turbo, upscaler, styler, tmp_path) -> Callable[..., FastAPI]:
    """Makes a router of the image models, perhaps with some in other states."""

    def make(states: dict[str, ModelState] | None = None, only: set[str] | None = None, **limits: Any) -> FastAPI:
        servers = {"painter": painter, "turbo": turbo, "upscaler": upscaler, "styler": styler}
        if only is not None:
            servers = {name: server for name, server in servers.items() if name in only}
        return application_of_images(servers, tmp_path / "media", states, **limits)

    return make


@pytest.fixture(scope="session")
def shared_image_app(tmp_path_factory) -> FastAPI:
    """For tests that change nothing in it: to make an application takes ten times as long as to answer a request."""
    servers = {spec.id: at_once(started(spec)) for spec in (PAINTER, TURBO, UPSCALER, STYLER)}
    return application_of_images(servers, tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def shared_application() -> FastAPI:
    """The same of a chat model and one for embeddings."""
    servers = {CHAT: at_once(chat_server()), EMBEDDINGS: at_once(embedding_server())}
    return create_application(Services(load_catalog(), LocalDispatcher(servers)))


@pytest.fixture
def image_app(image_router) -> FastAPI:
    return image_router()


@pytest.fixture
async def images(image_app):
    """HTTP to the router of the image models."""
    async with http_client(image_app) as client:
        yield client


@pytest.fixture
async def image_client(image_app):
    """The official client, as the judge of the API."""
    async with official_client(image_app) as client:
        yield client


@pytest.fixture
def open_http() -> Callable[[FastAPI], httpx.AsyncClient]:
    return http_client


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Makes a file of one colour."""

    def make(
        colour: str | tuple[int, ...] = "red", size: tuple[int, int] = (64, 48), kind: str = "PNG", mode: str = "RGB"
    ) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size, colour).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def pixels() -> Callable[[bytes], np.ndarray]:
    return lambda data: decode_image(data, 1, "image").pixels
