"""The server of style models on the fake engine."""

import numpy as np
import pytest
from picture_servers import file_of, noise, opened, ready

from deployments.servers.styles import Server as StylesServer
from models.engines.styles_fake import Engine as FakeStyles
from models.errors import InvalidMedia, InvalidRequest, PayloadTooLarge
from models.media.encoding import EDITED
from models.specs import Limits
from models.tasks.styles import TASK, StyleRequest
from models.tasks.usage import IMAGES, Usage

MODEL = "magenta-styles"
IMAGE = noise()


@pytest.fixture
async def server():
    from models.catalog import load_catalog

    return await ready(StylesServer, MODEL, FakeStyles(TASK.settings_of(load_catalog()[MODEL]).styles))


async def pixels_of(server, *request) -> np.ndarray:
    return np.asarray(opened((await server.stylize(StyleRequest(*request))).data))


async def test_a_named_style(server):
    result = await server.stylize(StyleRequest(file_of(IMAGE), "yellow-ink"))
    assert (result.width, result.height, result.usage) == (40, 24, Usage({IMAGES: 1}))
    picture = opened(result.data)
    np.testing.assert_array_equal(np.asarray(picture), 255 - IMAGE)
    facts = {name: picture.info[name] for name in ("model", "variant", "style", "strength")}
    assert facts == {"model": MODEL, "variant": "fake", "style": "yellow-ink", "strength": "1"}
    assert EDITED.encode() in result.data


async def test_the_style_of_a_picture(server):
    red = np.full((9, 7, 3), (240, 0, 0), np.uint8)
    pixels = await pixels_of(server, file_of(IMAGE), file_of(red, "JPEG"))
    assert pixels.shape == IMAGE.shape
    assert pixels[..., 0].mean() > IMAGE[..., 0].mean() + 40
    assert pixels[..., 1].mean() < IMAGE[..., 1].mean() - 40
    result = await server.stylize(StyleRequest(file_of(IMAGE), file_of(red)))
    assert opened(result.data).info["style"] == "of a picture"


@pytest.mark.parametrize("strength", [0, 0.25, 0.5, 1])
async def test_strength_mixes(server, strength):
    pixels = await pixels_of(server, file_of(IMAGE), "yellow-ink", strength)
    wanted = IMAGE * (1 - strength) + (255.0 - IMAGE) * strength
    assert np.abs(pixels - wanted).max() <= 0.5


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
async def test_a_strength_out_of_range_is_refused(server, strength):
    with pytest.raises(InvalidRequest) as caught:
        await server.stylize(StyleRequest(file_of(IMAGE), "charcoal", strength))
    assert caught.value.param == "strength"


async def test_a_style_that_the_engine_does_not_have_is_refused_and_not_tried(server):
    with pytest.raises(InvalidRequest, match="charcoal") as caught:
        await server.stylize(StyleRequest(file_of(IMAGE), "charcol"))
    assert caught.value.param == "style"


async def test_a_row_without_a_limit_takes_16_megapixels(server):
    server.spec = server.spec.model_copy(update={"limits": Limits()})
    most, more = (np.zeros((height, 4000, 3), np.uint8) for height in (4000, 4001))
    assert (await server.decode(file_of(most), "image")).pixels.shape == most.shape
    with pytest.raises(PayloadTooLarge):
        await server.decode(file_of(more), "image")


@pytest.mark.parametrize(("image", "style", "param"), [(b"no", "charcoal", "image"), (None, b"no", "style_image")])
async def test_what_cannot_be_read_is_refused(server, image, style, param):
    with pytest.raises(InvalidMedia) as caught:
        await server.stylize(StyleRequest(image or file_of(IMAGE), style))
    assert caught.value.param == param


async def test_transparency_stays(server):
    alpha = np.random.default_rng(8).integers(0, 256, (24, 40, 1), np.uint8)
    pixels = await pixels_of(server, file_of(np.concatenate((IMAGE, alpha), axis=2)), "yellow-ink")
    np.testing.assert_array_equal(pixels[..., 3:], alpha)
