"""The server of style models."""

import asyncio

import numpy as np

from deployments.servers.pictures import PictureServer
from models.errors import InvalidRequest
from models.tasks.methods import handles
from models.tasks.pictures import PictureResult
from models.tasks.styles import STYLIZE, TASK, StyleEngine, StyleRequest

OF_A_PICTURE = "of a picture"


class Server(PictureServer):
    engine: StyleEngine

    @handles(STYLIZE)
    async def stylize(self, request: StyleRequest) -> PictureResult:
        """
        Raises:
            InvalidRequest: the model does not have the style, or the strength is out of range.
            InvalidMedia, PayloadTooLarge: about "image" or "style_image".
            OutOfMemory, EngineFailed.
            ContentPolicyViolation: the policy asks for a check, and the result did not pass.
        """
        if not 0 <= request.strength <= 1:
            raise InvalidRequest("The strength of a style is a number from 0 to 1.", "strength")
        style = await self._style(request.style)
        picture = await self.decode(request.image, "image")
        pixels = picture.pixels
        if request.strength > 0:
            styled = await self._paint(pixels, style)
            pixels = await asyncio.to_thread(mix, pixels, styled, request.strength)
        name = style if isinstance(style, str) else OF_A_PICTURE
        facts = {"style": name, "strength": f"{request.strength:g}"}
        return await self.answer(pixels, picture.alpha, request.output, facts)

    async def _paint(self, pixels: np.ndarray, style: str | np.ndarray) -> np.ndarray:
        return await self.in_turn(lambda _: self.engine.stylize(pixels, style))

    async def _style(self, style: str | bytes) -> str | np.ndarray:
        if isinstance(style, bytes):
            return (await self.decode(style, "style_image")).pixels
        return TASK.settings_of(self.spec).style_named(style)


def mix(before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """A blend of two uint8 pictures, with `strength` as the share of the painted one."""
    if strength == 1:
        return after
    return np.rint(before + (after.astype(np.float32) - before) * strength).astype(np.uint8)
