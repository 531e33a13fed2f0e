"""Sizes in style transfer, without weights: painters see floats in sizes they take, and callers get back their own."""

import numpy as np
import pytest

from models.engines.styles_onnx import MULTIPLE, PAINTED_SIDE, SMALLEST_SIDE, painted


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (31, 7), (64, 64), (427, 640), (10, 3000), (1500, 1100)])
def test_any_size_comes_back_as_it_was(size):
    image = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
    image = image // 8 + np.linspace(0, 200, size[1], dtype=np.uint8)[None, :, None]
    seen = []

    def paint(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels)
        return pixels

    result = painted(image, paint)
    (pixels,) = seen
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert all(SMALLEST_SIDE <= side <= PAINTED_SIDE and side % MULTIPLE == 0 for side in pixels.shape[:2])
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    if max(size) <= PAINTED_SIDE:
        np.testing.assert_array_equal(result, image)
    else:
        assert np.abs(result.astype(int) - image).mean() < 12


def test_values_outside_of_the_range_are_cut():
    image = np.full((40, 40, 3), 128, np.uint8)
    assert painted(image, lambda pixels: pixels + 9).min() == 255
    assert painted(image, lambda pixels: pixels - 9).max() == 0
