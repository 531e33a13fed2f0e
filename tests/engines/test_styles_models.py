"""The real style networks: the scene stays, the style changes, and colours come from the style picture."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from starters import load_engine, starter

from models.catalog import load_catalog
from models.engines.onnx_session import open_session
from models.weights import locate

SPEC = load_catalog().resolve("magenta-styles")
SIZE = (256, 192)


@pytest.fixture(scope="module")
def engine():
    return starter(SPEC.id)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A house on a hill."""
    picture = Image.new("RGB", SIZE, (150, 190, 230))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((-60, 120, 320, 330), fill=(70, 130, 60))
    pen.rectangle((90, 80, 170, 140), fill=(230, 220, 200))
    pen.polygon([(80, 80), (130, 35), (180, 80)], fill=(160, 60, 40))
    pen.rectangle((120, 105, 142, 140), fill=(90, 50, 30))
    pen.ellipse((205, 15, 240, 50), fill=(250, 230, 120))
    return np.asarray(picture)


def style_picture(colour: tuple[int, int, int]) -> np.ndarray:
    """Strokes in shades of one colour."""
    picture = Image.new("RGB", (200, 300), colour)
    pen, drawn = ImageDraw.Draw(picture), np.random.default_rng(1)
    for _ in range(300):
        x, y = drawn.integers((0, 0), picture.size)
        shade = drawn.uniform(0.3, 1.2)
        pen.line((x, y, x + 25, y - 40), fill=tuple(int(min(255, shade * value)) for value in colour), width=5)
    return np.asarray(picture)


def edges_of(image: np.ndarray) -> np.ndarray:
    """Where brightness changes, blurred so that a stroke's width does not count."""
    grey = Image.fromarray(image).convert("L").filter(ImageFilter.GaussianBlur(2))
    edges = np.asarray(grey.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.GaussianBlur(2)), float)
    return edges[4:-4, 4:-4]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.fixture(scope="module")
def named(engine, scene) -> dict[str, np.ndarray]:
    return {style: engine.stylize(scene, style) for style in SPEC.settings.styles}


def test_there_are_26_styles(named):
    assert len(named) == len(set(SPEC.settings.styles)) == 26
    assert all(image.shape == (192, 256, 3) and image.dtype == np.uint8 for image in named.values())


def test_every_style_changes_the_picture_and_is_unlike_every_other(named, scene):
    images = [scene.astype(int), *(image.astype(int) for image in named.values())]
    differences = [np.abs(a - b).mean() for index, a in enumerate(images) for b in images[:index]]
    print(f"least mean difference of two styles: {min(differences):.1f}")
    assert min(differences) > 8


def test_the_scene_stays(named, scene):
    found = {style: correlation(edges_of(scene), edges_of(image)) for style, image in named.items()}
    print(f"edges correlate from {min(found.values()):.2f}, median {np.median(list(found.values())):.2f}")
    mirrored = [correlation(edges_of(scene), edges_of(image[:, ::-1])) for image in named.values()]
    # Of 26 styles some draw more edges of their own than others; none loses the house.
    assert np.median(list(found.values())) > 0.4
    assert all(kept > turned for kept, turned in zip(found.values(), mirrored, strict=True))


def test_names_say_what_the_styles_look_like(named):
    mean = {style: image.mean((0, 1)) for style, image in named.items()}
    assert mean["red-embers"][0] > 2 * mean["red-embers"][2]
    assert mean["starry-swirls"][2] > mean["starry-swirls"][0]
    assert mean["midnight-beads"].max() < 150
    assert mean["bright-sketch"].min() > 140
    assert named["charcoal"].std((0, 1)).mean() > 50


def test_a_style_picture_gives_its_colours(engine, scene):
    red, blue = (engine.stylize(scene, style_picture(colour)) for colour in ((220, 30, 30), (30, 60, 220)))
    assert red.shape == blue.shape == scene.shape
    assert red[..., 0].mean() > blue[..., 0].mean() + 40
    assert blue[..., 2].mean() > red[..., 2].mean() + 40
    assert correlation(edges_of(scene), edges_of(red)) > 0.4


def test_the_freed_network_is_the_one_of_the_wheel(engine):
    """At the only size that the network in the wheel takes, they agree to the last bit."""
    source = locate(SPEC, SPEC.variant(None).model_copy(update={"artifact": None}))
    fixed = open_session(source / "arbitrary_transform.onnx")
    image, vector = (item.name for item in fixed.get_inputs())
    drawn = np.random.default_rng(2)
    pixels = drawn.random((1, 384, 384, 3), np.float32)
    style = engine._read(style_picture((200, 120, 40)))
    (wanted,) = fixed.run(None, {image: pixels, vector: style})
    np.testing.assert_array_equal(engine._paint_as(pixels[0], style), wanted[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (33, 70)])
def test_any_size_is_painted(engine, scene, size):
    image = scene[: size[0], : size[1]]
    for style in ("charcoal", scene[:5, :9]):
        assert engine.stylize(image, style).shape == image.shape


def test_it_repeats(engine, scene):
    np.testing.assert_array_equal(engine.stylize(scene, "charcoal"), engine.stylize(scene, "charcoal"))


def test_a_catalog_with_another_number_of_styles_is_an_error(engine):
    fewer = SPEC.settings.model_copy(update={"styles": SPEC.settings.styles[1:]})
    with pytest.raises(ValueError, match="26"):
        load_engine(SPEC.model_copy(update={"settings": fewer}), SPEC.variant(None))
