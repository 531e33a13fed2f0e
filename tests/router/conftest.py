"""The router over fake image models: real HTTP, real files, pictures out of FakeImages."""

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fakes import CHAT, EMBEDDINGS, fake_embedding_server
from fastapi import FastAPI
from PIL import Image
from virtual_time import VirtualLoop

from deployments.router.application import create_application
from deployments.router.dispatch import LocalDispatcher, ModelState
from deployments.router.media_store import FolderStore
from deployments.router.services import Services
from models.catalog import Catalog, load_catalog
from models.engines.chat_fake import Engine as FakeChat
from models.engines.images_fake import Engine as FakeImages
from models.engines.styles_fake import Engine as FakeStyles
from models.engines.upscaling_fake import Engine as FakeUpscaling
from models.media.decoding import decode_image
from models.media.encoding import encode_image
from models.specs import ModelSpec, Task
from models.tasks.images import EncodedImage, ImageRequest, ImageResult, ImageSettings, PartialImage, Picture, Progress
from models.tasks.pictures import PictureResult
from models.tasks.styles import StyleRequest
from models.tasks.upscaling import UpscaleRequest
from models.tasks.usage import Usage

SETTINGS = ImageSettings(
    width=64,
    height=64,
    smallest=32,
    largest=128,
    multiple=8,
    most_megapixels=0.0125,
    most_images=4,
    steps=6,
    most_steps=10,
    guidance=5,
    scheduler="fake",
)
COMMON: dict[str, Any] = {
    "licence": "none",
    "owner": "tests",
    "source": {"kind": "none"},
    "limits": {"megapixels": 0.1},
    "default_variant": "fake",
    "variants": {"fake": {"backend": "fake", "precision": "fp32", "needs": {"cpus": 1, "memory_gib": 1}}},
}


def spec(name: str, task: Task, **rest: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": name, "title": name, "task": task, **COMMON, **rest})


PAINTER = spec(
    "painter",
    Task.IMAGES,
    images=SETTINGS,
    capabilities={"generate", "edit", "inpaint", "vary", "negative_prompt"},
    controls={"canny": {"kind": "none"}, "depth": {"kind": "none"}},
    adapters={"watercolour": {"kind": "none"}, "pixel-art": {"kind": "none"}},
)
TURBO = spec(
    "turbo", Task.IMAGES, images=SETTINGS.model_copy(update={"guidance": 0, "steps": 1}), capabilities={"generate"}
)
UPSCALER = spec("upscaler", Task.UPSCALING, scale=4)
STYLER = spec("styler", Task.STYLES, styles=("negative", "rolled"))


class FakeImageServer:
    """What an image model's replica does, one picture after the other."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.engine = FakeImages()
        self.requests: list[ImageRequest] = []
        self.seconds_per_step = 0.0
        self.fail_after: int | None = None
        self.cancelled = False

    async def make(self, request: ImageRequest) -> ImageResult:
        items = [item async for item in self.make_stream(request)]
        images = tuple(item for item in items if isinstance(item, EncodedImage))
        return replace(items[-1], images=images)

    async def make_stream(self, request: ImageRequest) -> AsyncGenerator[Any, None]:
        self.requests.append(request)
        settings = self.spec.images
        image = None if request.image is None else decode_image(request.image, 1, "image").pixels
        width = request.width or (settings.width if image is None else image.shape[1])
        height = request.height or (settings.height if image is None else image.shape[0])
        if image is not None:
            image = np.asarray(Image.fromarray(image).resize((width, height)))
        steps, seed = request.steps or settings.steps, 1000 if request.seed is None else request.seed
        guidance = settings.guidance if request.guidance is None else request.guidance
        scheduler = request.scheduler or settings.scheduler
        done = 0
        try:
            for index in range(request.n):
                picture = Picture(
                    request.prompt, "", width, height, steps, guidance, scheduler, seed + index, image,
                    strength=request.strength or settings.strength,
                )  # fmt: skip
                denoising = self.engine.start(picture)
                for _ in range(denoising.steps):
                    await asyncio.sleep(self.seconds_per_step)
                    if done == self.fail_after:
                        raise RuntimeError("secret text of a library")
                    done += 1
                    self.engine.step([denoising])
                    yield Progress(index, denoising.step, denoising.steps)
                    if request.partial_images > 0 and denoising.step <= request.partial_images:
                        preview = encode_image(self.engine.preview(denoising), request.output, {})
                        yield PartialImage(index, denoising.step - 1, preview)
                data = encode_image(self.engine.finish([denoising])[0], request.output, {"seed": str(seed + index)})
                yield EncodedImage(index, data, seed + index)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise
        usage = Usage(prompt_tokens=len(request.prompt.split()), images=request.n)
        yield usage
        yield ImageResult((), width, height, steps, guidance, scheduler, "fake", request.output.format, usage)


class FakePictureServer:
    """What an upscaler's and a style model's replica do."""

    def __init__(self, upscaler: FakeUpscaling, styler: FakeStyles):
        self.upscaler, self.styler = upscaler, styler
        self.requests: list[Any] = []

    async def upscale(self, request: UpscaleRequest) -> Any:
        return self._result(request, self.upscaler.upscale(decode_image(request.image, 1, "image").pixels))

    async def stylize(self, request: StyleRequest) -> Any:
        style = request.style if isinstance(request.style, str) else decode_image(request.style, 1, "style").pixels
        return self._result(request, self.styler.stylize(decode_image(request.image, 1, "image").pixels, style))

    def _result(self, request: Any, pixels: np.ndarray) -> Any:
        self.requests.append(request)
        data = encode_image(pixels, request.output, {})
        return PictureResult(data, pixels.shape[1], pixels.shape[0], Usage(images=1))


@pytest.fixture(autouse=True)
def time_is_virtual(virtual_clock: None) -> None:
    """Nothing here waits in real time."""


@pytest.fixture
def painter() -> FakeImageServer:
    return FakeImageServer(PAINTER)


@pytest.fixture
def turbo() -> FakeImageServer:
    return FakeImageServer(TURBO)


def fake_pictures() -> FakePictureServer:
    return FakePictureServer(FakeUpscaling(4), FakeStyles(STYLER.styles))


@pytest.fixture
def pictures() -> FakePictureServer:
    return fake_pictures()


def application_of_images(
    servers: dict[str, Any], folder: Path, states: dict[str, ModelState] | None = None, **limits: Any
) -> FastAPI:
    limits.setdefault("media", FolderStore(folder, 60, 1 << 20))
    catalog = Catalog([PAINTER, TURBO, UPSCALER, STYLER])
    return create_application(Services(catalog, LocalDispatcher(servers, states), **limits))


@pytest.fixture
def image_router(painter, turbo, pictures, tmp_path) -> Callable[..., FastAPI]:
    """Makes a router of the image models, perhaps with some in other states."""

    def make(states: dict[str, ModelState] | None = None, only: set[str] | None = None, **limits: Any) -> FastAPI:
        servers = {"painter": painter, "turbo": turbo, "upscaler": pictures, "styler": pictures}
        if only is not None:
            servers = {name: server for name, server in servers.items() if name in only}
        return application_of_images(servers, tmp_path / "media", states, **limits)

    return make


@pytest.fixture(scope="session")
def shared_image_app(tmp_path_factory) -> FastAPI:
    """For tests that change nothing in it: to make an application takes ten times as long as to answer a request."""
    pictures = fake_pictures()
    servers = {"painter": FakeImageServer(PAINTER), "turbo": FakeImageServer(TURBO)}
    return application_of_images(servers | {"upscaler": pictures, "styler": pictures}, tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def shared_application() -> FastAPI:
    """The same of a chat model and one for embeddings."""
    servers = {CHAT: FakeChat(CHAT, load_catalog()[CHAT].limits.context_tokens), EMBEDDINGS: fake_embedding_server()}
    return create_application(Services(load_catalog(), LocalDispatcher(servers)))


@pytest.fixture
def image_app(image_router) -> FastAPI:
    return image_router()


def http_of(application: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://medley", timeout=30)


@pytest.fixture
async def images(image_app):
    """HTTP to the router of the image models."""
    async with http_of(image_app) as client:
        yield client


@pytest.fixture
async def image_client(image_app):
    """The official client, as the judge of the API."""
    import httpx2
    import openai

    transport = httpx2.ASGITransport(image_app, raise_app_exceptions=False)
    async with (
        httpx2.AsyncClient(transport=transport) as http_client,
        openai.AsyncOpenAI(
            api_key="none", base_url="http://medley/v1", max_retries=0, http_client=http_client
        ) as client,
    ):
        yield client


@pytest.fixture
def open_http() -> Callable[[FastAPI], httpx.AsyncClient]:
    return http_of


@pytest.fixture
def post_each() -> Iterator[Callable[..., httpx.Response]]:
    """Posts to an application from a test that is no coroutine, as those are that draw many requests."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        def post(application: FastAPI, path: str, **request: Any) -> httpx.Response:
            async def once() -> httpx.Response:
                async with http_of(application) as http:
                    return await http.post(path, **request)

            return runner.run(once())

        yield post


def draw_cases(api: Any, mode: Any, examples: int, wanted: Callable[[Any], bool]) -> set[tuple[str, str]]:
    """Send drawn requests to each operation of an OpenAPI document, and hold the answers against it. Returns the paths
    and media types that were tried."""
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks

    tried: set[tuple[str, str]] = set()
    for operation in (result.ok() for result in api.get_all_operations()):
        if not wanted(operation):
            continue

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def conforms(case: Any) -> None:
            tried.add((case.path, case.media_type))
            case.call_and_validate(
                checks=[
                    checks.not_a_server_error,
                    checks.content_type_conformance,
                    checks.response_schema_conformance,
                    checks.status_code_conformance,
                ]
            )

        conforms()
    return tried


@pytest.fixture
def hold_to_its_document() -> Callable[..., set[tuple[str, str]]]:
    return draw_cases


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
