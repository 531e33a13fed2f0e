"""The server of style models."""

import asyncio

import numpy as np

from deployments.servers.pictures import PictureServer
from models.errors import InvalidRequest
from models.tasks.methods import handles
from models.tasks.pictures import PictureResult
from models.tasks.styles import STYLIZE, TASK, StyleEngine, StyleRequest

# Bytes for each pixel while an engine that works on a smaller picture enlarges what it painted.
ENLARGING = 14
# Values that are mixed at a time: as floats they take several times their memory.
PIECE = 1 << 20

OF_A_PICTURE = "of a picture"


class Server(PictureServer):
    engine: StyleEngine

    @handles(STYLIZE)
    async def stylize(self, request: StyleRequest) -> PictureResult:
        """
        Raises:
            InvalidRequest: the model does not have the style, or the strength is out of range.
            InvalidMedia, PayloadTooLarge: about "image" or "style_image".
            RateLimited: there is no room for the pictures, and too many wait for some.
            OutOfMemory, EngineFailed.
            ContentPolicyViolation: the policy asks for a check, and the result did not pass.
        """
        if not 0 <= request.strength <= 1:
            raise InvalidRequest("The strength of a style is a number from 0 to 1.", "strength")
        pictures = {"image": request.image}
        if isinstance(request.style, bytes):
            pictures["style_image"] = request.style
        header = self.inspect(request.image, "image")
        pixels = header.width * header.height
        async with self.room_for(pictures, pixels, request.output, ENLARGING * pixels):
            style = await self._style(request.style)
            picture = await self.decode(request.image, "image")
            result = picture.pixels
            if request.strength > 0:
                styled = await self._paint(picture.pixels, style)
                result = await asyncio.to_thread(mix, picture.pixels, styled, request.strength)
            name = style if isinstance(style, str) else OF_A_PICTURE
            facts = {"style": name, "strength": f"{request.strength:g}"}
            return await self.answer(result, picture.alpha, request.output, facts)

    async def _paint(self, pixels: np.ndarray, style: str | np.ndarray) -> np.ndarray:
        return await self.in_turn(pixels, lambda _: self.engine.stylize(pixels, style))

    async def _style(self, style: str | bytes) -> str | np.ndarray:
        if isinstance(style, bytes):
            return (await self.decode(style, "style_image")).pixels
        return TASK.settings_of(self.spec).style_named(style)


def mix(before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """A blend of two uint8 pictures, with `strength` as the share of the painted one."""
    if strength == 1:
        return after
    mixed = np.empty(before.size, np.uint8)
    for start in range(0, before.size, PIECE):
        old, new = (pixels.reshape(-1)[start : start + PIECE] for pixels in (before, after))
        mixed[start : start + PIECE] = np.rint(old + (new.astype(np.float32) - old) * strength)
    return mixed.reshape(before.shape)
