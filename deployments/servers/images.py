"""The server of image models: resolves requests, denoises their pictures together, and writes the files."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deployments.servers.denoising import DenoisingLoop
from deployments.servers.engine import JOB, EngineServer, broken
from deployments.servers.forecast import Schedule, Stepwise
from deployments.servers.image_memory import needed
from deployments.servers.pace import Work, doubling
from deployments.servers.room import Room
from deployments.servers.safety import OutputGuard
from deployments.servers.threads import engine_thread, run_in
from models.errors import InvalidMedia, InvalidRequest, OutOfMemory, ServingError
from models.media.decoding import DecodedImage, decode_image
from models.media.encoding import EDITED, GENERATED, encode_image
from models.tasks.images import (
    MAKE,
    MAKE_STREAM,
    TASK,
    ControlPicture,
    Denoising,
    EncodedImage,
    ImageEngine,
    ImageEvent,
    ImageRequest,
    ImageResult,
    ImageSettings,
    PartialImage,
    Picture,
    Progress,
)
from models.tasks.methods import handles
from models.tasks.usage import IMAGES, PROMPT_TOKENS, Usage

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class SettledRequest:
    """A request with every value decided.

    Attributes:
        pictures: the pictures for the engine to make, at a size that it supports.
        size: width and height of the files.
        original: the picture to edit, at `size`.
        kept: the parts of it that stay, as booleans. None, as `original` is, where nothing has to stay.
        writing: how many finished pictures may be composed and encoded at once.
    """

    request: ImageRequest
    pictures: tuple[Picture, ...]
    size: Size
    original: np.ndarray | None = None
    kept: np.ndarray | None = None
    writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


class Server(EngineServer):
    engine: ImageEngine

    async def load(self, engine: type[Any], folder: Path) -> Any:
        """Load the engine in the thread that will use it. OpenMP keeps a pool of threads for each calling thread. With
        more threads than cores, they sleep between the many small loops of a step, which doubled its time."""
        self._thread = engine_thread("denoising")
        return await run_in(self._thread, engine.load, self.spec, self.variant, folder)

    async def prepare(self) -> None:
        self._room = Room(self.variant.needs.pictures_bytes)
        self.guard = OutputGuard(self.args.safety)
        await self.guard.load()
        largest = int(self.variant.engine.get("largest_batch", 16))
        self.denoising = DenoisingLoop(self.engine, largest, self.note_batch, self.did_pixels, self._thread)

    def schedule(self) -> Schedule:
        return Stepwise(chunk=1.0, full=float(self.variant.engine.get("largest_batch", 16)))

    def work(self, method: str, asked: ImageRequest) -> Work:
        """Counted in pictures of the model's own size. Of an edit, only the steps that its strength leaves."""
        settings = self.settings
        size = asked.width or settings.width, asked.height or settings.height
        pictures = asked.n * size[0] * size[1] / (settings.width * settings.height)
        steps = asked.steps or settings.steps
        if asked.image is not None:
            steps *= asked.strength or settings.strength
        # Each is encoded at the beginning and decoded at the end.
        return Work(read=2 * pictures, steps=max(1.0, steps), width=pictures)

    def sizes(self) -> tuple[str, list[tuple[float, Work]]]:
        settings, most = self.settings, float(self.settings.most_images)
        pictures = [(count, Work(2 * count, settings.steps, count)) for count in doubling(1, most)]
        return f"pictures of {settings.width}x{settings.height} with {settings.steps} steps", pictures

    def shows(self, method: str, asked: ImageRequest) -> bool:
        return True

    def did_pixels(self, seconds: float, steps: int, stepped: int, begun_or_ended: int) -> None:
        own = self.settings.width * self.settings.height
        self.did(seconds, steps, stepped / own, begun_or_ended / own)

    async def measure(self) -> None:
        """Two steps of one picture, and of two together."""
        settings = TASK.settings_of(self.spec)
        small = ImageRequest("measure", steps=2, seed=0)
        with contextlib.suppress(ServingError):  # a model may need more steps, or a picture
            await self.make(small)
            await self.make(replace(small, n=min(2, settings.most_images)))

    @handles(MAKE)
    async def make(self, request: ImageRequest) -> ImageResult:
        """All pictures of a request, after the last one is finished."""
        images: list[EncodedImage] = []
        async with aclosing(self.make_stream(request)) as items:
            async for item in items:
                if isinstance(item, EncodedImage):
                    images.append(item)
                elif isinstance(item, ImageResult):
                    return replace(item, images=tuple(sorted(images, key=lambda image: image.index)))
        raise AssertionError("a stream of pictures ends with its result")

    @handles(MAKE_STREAM)
    async def make_stream(self, request: ImageRequest) -> AsyncGenerator[ImageEvent | Usage, None]:
        """Progress, previews and finished pictures as they come, then a result that says how they were made."""
        most, limit = self.spec.limits.most_megapixels, self._room.limit
        need = needed(request, self.settings, most, limit)
        async with self._room.holds(need.all, need.files), aclosing(self._made(request, need.writing)) as items:
            async for item in items:
                yield item

    async def _made(self, request: ImageRequest, writing: int) -> AsyncGenerator[ImageEvent | Usage, None]:
        settled = replace(await asyncio.to_thread(self.settle, request), writing=asyncio.Semaphore(writing))
        items: asyncio.Queue[Progress | PartialImage | EncodedImage | BaseException] = asyncio.Queue()
        tokens: list[int] = [0]
        tasks = [
            asyncio.create_task(self._make_one(index, picture, settled, items, tokens))
            for index, picture in enumerate(settled.pictures)
        ]
        try:
            missing = len(tasks)
            while missing:
                item = await items.get()
                if isinstance(item, BaseException):
                    raise item
                missing -= isinstance(item, EncodedImage)
                yield item
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        usage = Usage({PROMPT_TOKENS: tokens[0], IMAGES: len(tasks)})
        yield usage
        first = settled.pictures[0]
        yield ImageResult(
            (),
            *settled.size,
            first.steps,
            first.guidance,
            first.scheduler,
            self.args.variant_name,
            request.output.format,
            usage,
        )

    async def _make_one(
        self,
        index: int,
        picture: Picture,
        settled: SettledRequest,
        items: asyncio.Queue,
        tokens: list[int],
    ) -> None:
        """Put the events of one picture into the queue. The last is its file or its error."""
        job = JOB.get()
        previews: list[np.ndarray] = []
        in_order = asyncio.Lock()

        def on_step(denoising: Denoising) -> None:
            tokens[0] = denoising.prompt_tokens
            items.put_nowait(Progress(index, denoising.step, denoising.steps))
            if job is not None:
                self.admission.wrote(job, 1 / len(settled.pictures), time.monotonic())

        async def show(preview: np.ndarray) -> None:
            async with in_order:
                previews.append(preview)
                data = await self._encode(preview, picture, settled)
                items.put_nowait(PartialImage(index, len(previews) - 1, data))

        shown: list[asyncio.Task[None]] = []
        try:
            pixels = await self.denoising.make(
                picture,
                settled.request.partial_images,
                on_step,
                lambda preview: shown.append(asyncio.create_task(show(preview))),
            )
            await asyncio.gather(*shown)
            items.put_nowait(EncodedImage(index, await self._encode(pixels, picture, settled), picture.seed))
        except Exception as error:
            items.put_nowait(error)
        finally:
            for task in shown:
                task.cancel()

    async def _encode(self, pixels: np.ndarray, picture: Picture, settled: SettledRequest) -> bytes:
        async with settled.writing:
            pixels = await asyncio.to_thread(composed, pixels, settled)
            await self.guard.check([pixels])
            return await asyncio.to_thread(self._written, pixels, picture, settled)

    def _written(self, pixels: np.ndarray, picture: Picture, settled: SettledRequest) -> bytes:
        facts = {
            "model": self.spec.id,
            "variant": self.args.variant_name,
            "seed": str(picture.seed),
            "steps": str(picture.steps),
            "guidance": f"{picture.guidance:g}",
            "scheduler": picture.scheduler,
            "size": f"{settled.size[0]}x{settled.size[1]}",
        }
        source = GENERATED if settled.request.image is None else EDITED
        return encode_image(pixels, settled.request.output, facts, digital_source=source)

    def settle(self, request: ImageRequest) -> SettledRequest:
        """Decode the client's pictures and choose values that the client left open. Blocks.

        Raises:
            InvalidRequest: a picture cannot be read, or this model does not have what the client asked for.
            OutOfMemory: a picture of this size does not fit into this replica's memory.
        """
        settings = self.settings
        scheduler = request.scheduler or settings.scheduler
        if scheduler not in self.engine.schedulers:
            raise InvalidRequest(f"The schedulers here are {', '.join(self.engine.schedulers)}.", "scheduler")
        sent = self._decode(request.image, "image") if request.image is not None else None
        mask = self._mask(request, sent) if sent is not None else None
        size = wanted_size(request, sent, settings)
        working = settings.nearest(*size)
        self._check_memory(working)
        image = None if sent is None else resized(sent.pixels, working)
        original = None if sent is None or mask is None else resized(sent.pixels, size)
        kept = None if mask is None else resized_mask(mask, size) == 0
        repaint = None if mask is None else resized_mask(mask, working).astype(np.float32) / 255
        edited = sent is not None
        del sent, mask  # they may be large, and control pictures are decoded next
        strength = request.strength or (1.0 if repaint is not None else settings.strength)
        seed = secrets.randbits(32) if request.seed is None else request.seed
        first = Picture(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=working[0],
            height=working[1],
            steps=request.steps or settings.steps,
            # Without a prompt, guidance has no effect but doubles the cost.
            guidance=(settings.guidance if request.guidance is None else request.guidance) if request.prompt else 1.0,
            scheduler=scheduler,
            seed=seed,
            image=image,
            mask=repaint,
            strength=strength if edited else 1.0,
            controls=tuple(
                ControlPicture(
                    control.kind,
                    resized(self._decode(control.image, f"controls[{number}].image").pixels, working),
                    control.weight,
                )
                for number, control in enumerate(request.controls)
            ),
            adapters=request.adapters,
        )
        pictures = tuple(replace(first, seed=(seed + number) % (1 << 63)) for number in range(request.n))
        return SettledRequest(request, pictures, size, original, kept)

    @property
    def settings(self) -> ImageSettings:
        return TASK.settings_of(self.spec)

    def _decode(self, data: bytes, param: str) -> DecodedImage:
        return decode_image(data, self.spec.limits.most_megapixels, param)

    def _mask(self, request: ImageRequest, original: DecodedImage) -> np.ndarray | None:
        """The parts to repaint, 0 to 255, as large as the picture; None for all of it."""
        if request.mask is None:
            if original.alpha is None or original.alpha.min() == 255:
                return None
            return 255 - original.alpha
        mask = self._decode(request.mask, "mask")
        if mask.pixels.shape != original.pixels.shape:
            there, here = mask.pixels.shape, original.pixels.shape
            raise InvalidMedia(
                f"The mask is {there[1]}x{there[0]} and the picture {here[1]}x{here[0]}. Send a mask of the same size.",
                "mask",
            )
        repaint = brightness(mask.pixels) if mask.alpha is None else 255 - mask.alpha
        if not repaint.max():
            raise InvalidMedia(
                "The mask leaves nothing to repaint. Make transparent, or white if it has no alpha, what is to change.",
                "mask",
            )
        return repaint

    def _check_memory(self, size: Size) -> None:
        if not self.engine.largest_batch(*size):
            settings = self.settings
            raise OutOfMemory(
                f"A picture of {size[0]}x{size[1]} does not fit into the memory of this model's replicas. "
                f"Ask for {settings.width}x{settings.height}.",
                "size",
            )


def wanted_size(request: ImageRequest, original: DecodedImage | None, settings: ImageSettings) -> Size:
    """The requested size, else that of the client's picture, else the model's own."""
    if request.width and request.height:
        return request.width, request.height
    if original is not None:
        return original.pixels.shape[1], original.pixels.shape[0]
    return settings.width, settings.height


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def resized_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))


def brightness(pixels: np.ndarray) -> np.ndarray:
    """The mean of the three colours: uint8, shape (height, width)."""
    third = np.array([85, 86, 85], np.uint16)  # of 256
    mean = np.empty(pixels.shape[:2], np.uint8)
    for row in range(0, len(pixels), 64):
        mean[row : row + 64] = pixels[row : row + 64] @ third >> 8
    return mean


def composed(pixels: np.ndarray, settled: SettledRequest) -> np.ndarray:
    """The picture at the requested size. Where the mask keeps it, it is the exact original."""
    pixels = resized(pixels, settled.size)
    if settled.original is None or settled.kept is None:
        return pixels
    # The engine has already blended soft edges. Only parts that the mask keeps completely are taken from the original.
    return np.where(settled.kept[:, :, None], settled.original, pixels)
