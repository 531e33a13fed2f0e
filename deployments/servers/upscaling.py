"""The server of upscalers."""

import numpy as np

from deployments.servers.pictures import PictureServer
from models.tasks.methods import handles
from models.tasks.pictures import PictureResult
from models.tasks.upscaling import TASK, UPSCALE, UpscaleRequest, UpscalingEngine


class Server(PictureServer):
    engine: UpscalingEngine

    @handles(UPSCALE)
    async def upscale(self, request: UpscaleRequest) -> PictureResult:
        """
        Raises:
            InvalidMedia, PayloadTooLarge: about "image".
            RateLimited: there is no room for the picture, and too many wait for some.
            OutOfMemory, EngineFailed.
            ContentPolicyViolation: the policy asks for a check, and the result did not pass.
        """
        scale = TASK.settings_of(self.spec).scale
        header = self.inspect(request.image, "image")
        pixels = header.width * header.height * scale**2
        async with self.room_for({"image": request.image}, pixels, request.output):
            picture = await self.decode(request.image, "image")
            large = await self._enlarge(picture.pixels)
            return await self.answer(large, picture.alpha, request.output, {"scale": str(scale)})

    async def _enlarge(self, pixels: np.ndarray) -> np.ndarray:
        return await self.in_turn(pixels, lambda stop_if_left: self.engine.upscale(pixels, stop_if_left))
