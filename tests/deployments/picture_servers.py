"""Servers of models that change one picture, around fake engines and outside of Serve; files to send and to read."""

import io
from types import SimpleNamespace

import numpy as np
from PIL import Image
from replicas import faked, started

from models.catalog import load_catalog
from models.safety.policy import OutputPolicy


async def ready(server_class, model: str, engine, policy: OutputPolicy | None = None):
    """A server of the model around this engine, started and warmed up."""
    loaded = SimpleNamespace(load=lambda *_: engine)
    return await started(faked(load_catalog()[model]), server_class, loaded, safety=policy or OutputPolicy())


def noise(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
