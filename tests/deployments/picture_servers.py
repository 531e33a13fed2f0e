"""Servers of models that change one picture, around fake engines and outside of Serve; files to send and to read."""

import io

import numpy as np
from PIL import Image

from models.catalog import load_catalog
from models.safety.policy import OutputPolicy


class Args:
    variant_name = "fake"

    def __init__(self, policy: OutputPolicy):
        self.safety = policy


async def ready(server_class, model: str, engine, policy: OutputPolicy | None = None):
    """A server of the model, loaded and warmed up."""
    server = server_class.__new__(server_class)
    server.args, server.spec, server.engine = Args(policy or OutputPolicy()), load_catalog()[model], engine
    server.variant = server.spec.variant(None)
    await server.warm_up()
    return server


def noise(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
