"""Pictures with more bits than eight."""

import io
import random

import numpy as np
from PIL import Image

from models.media.decoding import decode_image


def test_of_sixteen_bits_the_upper_eight_are_kept():
    """Values whose upper and lower halves differ: of 0x1234, the brightness is 0x12."""
    draw = np.random.default_rng(random.randrange(1 << 32))
    deep = draw.integers(0, 1 << 16, (16, 16), dtype=np.uint16)
    deep[0, :4] = 0x1234, 0x00FF, 0xFF00, 0xFFFF
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    decoded = decode_image(file.getvalue(), 1, "image").pixels
    assert decoded[0, :4, 0].tolist() == [0x12, 0x00, 0xFF, 0xFF]
    assert np.array_equal(decoded, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2))
