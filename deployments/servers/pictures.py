"""The base of servers that change one picture: make room for it, decode it, run the engine in turn, and encode the
result."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from deployments.servers.engine import EngineServer, broken
from deployments.servers.pace import Work, doubling
from deployments.servers.room import Room
from deployments.servers.safety import OutputGuard
from deployments.servers.threads import engine_thread, run_in
from models.errors import ServingError
from models.media.decoding import DecodedImage, decode_image
from models.media.encoding import EDITED, encode_image
from models.media.formats import Output
from models.media.headers import ImageHeader, inspect_image
from models.media.memory import DECODED, WRITTEN, decoding_bytes, encoding_bytes
from models.tasks.pictures import PictureResult
from models.tasks.usage import IMAGES, Usage

T = TypeVar("T")

# Megapixels of a small picture.
SMALLEST = 1 / 16


class CallerLeft(Exception):
    """Raised in the engine's thread to stop work whose caller has left."""


class PictureServer(EngineServer):
    """The engine works in one thread, in the order of the calls. Calls cancelled before their turn are skipped."""

    async def prepare(self) -> None:
        self._engine_thread = engine_thread("engine")
        self._room = Room(self.variant.needs.pictures_bytes)
        self.guard = OutputGuard(self.args.safety)
        await self.guard.load()

    def inspect(self, data: bytes, param: str) -> ImageHeader:
        return inspect_image(data, self.spec.limits.most_megapixels, param)

    def room_for(
        self, pictures: Mapping[str, bytes], pixels: int, output: Output, between: int = 0
    ) -> AbstractAsyncContextManager[None]:
        """`async with self.room_for(...)` around all work on these pictures.

        Args:
            pictures: files that are decoded one after the other and kept, by their parameters.
            pixels: of the result.
            between: bytes that are needed after the decoding and before the encoding.
        """
        files = sum(map(len, pictures.values()))
        kept, most = 0, 0
        for param, data in pictures.items():
            header = self.inspect(data, param)
            most = max(most, kept + decoding_bytes(data, header))
            kept += DECODED * header.width * header.height
        written = (DECODED + WRITTEN) * pixels + encoding_bytes(pixels, output)
        return self._room.holds(files + max(most, kept + between, kept + written), files)

    async def decode(self, data: bytes, param: str) -> DecodedImage:
        return await asyncio.to_thread(decode_image, data, self.spec.limits.most_megapixels, param)

    def work(self, method: str, asked: Any) -> Work:
        """Its megapixels."""
        header = self.inspect(asked.image, "image")
        return Work(read=header.width * header.height / 1e6)

    def sizes(self) -> tuple[str, list[tuple[float, Work]]]:
        megapixels = doubling(SMALLEST, self.spec.limits.most_megapixels)
        return "megapixels of picture", [(size, Work(read=size)) for size in megapixels]

    async def in_turn(self, pixels: np.ndarray, work: Callable[[Callable[[], None]], T]) -> T:
        """Run `work` when its turn comes.

        Args:
            pixels: that it works on.
            work: gets a function to call now and then. It raises CallerLeft once the caller has left.

        Raises:
            ServingError: raised by the engine; EngineFailed for any other exception.
        """
        left = threading.Event()

        def stop_if_left() -> None:
            if left.is_set():
                raise CallerLeft

        def timed() -> tuple[T, float]:
            began = time.perf_counter()
            return work(stop_if_left), time.perf_counter() - began

        try:
            result, seconds = await run_in(self._engine_thread, timed)
            self.did(seconds, read=pixels.shape[0] * pixels.shape[1] / 1e6)
            return result
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None
        finally:
            left.set()

    async def answer(
        self, pixels: np.ndarray, alpha: np.ndarray | None, output: Output, facts: Mapping[str, str]
    ) -> PictureResult:
        """The result as a file that says how it was made, with the alpha channel of the client's picture.

        Raises:
            ContentPolicyViolation: the policy asks for a check, and the result did not pass.
        """
        await self.guard.check([pixels])
        making = {"model": self.spec.id, "variant": self.args.variant_name, **facts}
        data = await asyncio.to_thread(encode_with_alpha, pixels, alpha, output, making)
        height, width = pixels.shape[:2]
        return PictureResult(data, width, height, Usage({IMAGES: 1}))


def encode_with_alpha(pixels: np.ndarray, alpha: np.ndarray | None, output: Output, facts: Mapping[str, str]) -> bytes:
    """A file of `pixels` and `alpha`. The alpha channel is scaled to their size."""
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        size = (pixels.shape[1], pixels.shape[0])
        alpha = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))
    return encode_image(pixels, output, facts, alpha, EDITED)
