"""The real upscalers on drawn pictures: sharper than bicubic, in the same place, in the same colours."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from starters import UPSCALING, starter

from models.catalog import load_catalog
from models.registry import engine_class

SIDE = 192
MODELS = [
    UPSCALING,
    *(pytest.param(name, marks=pytest.mark.models) for name in ("realesrgan-x4plus-anime", "realesrgan-x4plus")),
]


@pytest.fixture(scope="module", params=MODELS)
def engine(request, artifacts):
    """The smallest on every commit."""
    spec = load_catalog().resolve(request.param)
    variant = spec.variant("torch")
    if request.param == UPSCALING:
        return starter(UPSCALING)
    return engine_class(spec.task, variant.backend).load(spec, variant, artifacts.of(spec, "torch"))


@pytest.fixture(scope="module")
def drawn() -> Image.Image:
    """Shapes and letters, drawn large and made smaller so that their edges are smooth."""
    picture = Image.new("RGB", (SIDE * 4, SIDE * 4), (70, 120, 200))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((80, 60, 400, 380), fill=(220, 60, 40))
    pen.rectangle((440, 120, 700, 330), fill=(250, 220, 80))
    pen.polygon([(100, 700), (250, 430), (400, 700)], fill=(40, 140, 60))
    pen.text((430, 430), "Ab8", fill=(20, 20, 30), font_size=200)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def small(drawn) -> np.ndarray:
    return np.asarray(drawn.resize((SIDE // 4, SIDE // 4), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def large(engine, small) -> np.ndarray:
    return engine.upscale(small)


def bicubic(small: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b)[where].mean())


def test_edges_are_nearer_to_the_original_than_bicubics(drawn, small, large):
    edges = np.asarray(drawn.convert("L").filter(ImageFilter.FIND_EDGES)) > 40
    edges[[0, -1]] = edges[:, [0, -1]] = False  # the filter leaves the border as it was
    assert edges.mean() > 0.01
    gain = psnr(large, np.asarray(drawn), edges) - psnr(bicubic(small), np.asarray(drawn), edges)
    print(f"gain over bicubic at edges: {gain:.2f} dB")
    assert gain > 1


def test_colours_stay(small, large):
    """Nearly: x4plus adds a photograph's texture, which moves blue by 6 here. Swapped channels would move it by 45."""
    assert np.abs(large.mean((0, 1)) - small.mean((0, 1))).max() < 8


def test_nothing_moves(drawn, large):
    """Shifted by a pixel in any direction it fits the original worse."""
    wanted, everywhere = np.asarray(drawn), np.ones((SIDE, SIDE), bool)
    fits = {
        (down, right): psnr(np.roll(large, (down, right), (0, 1)), wanted, everywhere)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    assert max(fits, key=fits.__getitem__) == (0, 0)


def test_tiles_leave_no_seams(engine, drawn, monkeypatch):
    """In tiles so small that no one of them sees the whole width, however far the network sees."""
    image = np.asarray(drawn.crop((0, 70, SIDE, 90)).resize((300, 24), Image.Resampling.BICUBIC))
    whole = engine.upscale(image)
    monkeypatch.setattr(engine, "trunk_tile", 60)
    monkeypatch.setattr(engine, "draw_tile", 32)
    assert np.abs(whole.astype(int) - engine.upscale(image)).max() <= 1
