"""What a model cannot do is refused before it is asked: the field, the limit and the nearest that works are named."""

import base64
import io
import struct

import pytest
from PIL import Image

from deployments.router.dispatch import ModelState, State

GENERATIONS, EDITS, VARIATIONS = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"
UPSCALES, STYLES = "/v1/images/upscales", "/v1/images/styles"
ENCODED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def refused(*, images, painter, turbo, upscaler, styler, assert_error):
    """Sends a body that is to be refused; gives the error. No model was asked."""

    async def check(path, body, param, *, status=400, code=None, files=None):
        send = {"data": body, "files": files} if files is not None else {"json": body}
        error = assert_error(await images.post(path, **send), status, code)
        assert error["param"] == param, error
        assert [one.requests for one in (painter, turbo, upscaler, styler)] == [[]] * 4
        return error["message"]

    return check


@pytest.mark.parametrize(
    ("sent", "param", "named"),
    [
        ({"n": 5}, "n", ["at most 4"]),
        ({"n": 0}, "n", ["1"]),
        ({"size": "1024x1024"}, "size", ["32 to 128", "multiples of 8", "0.0125 megapixels", "104x104"]),
        ({"size": "60x64"}, "size", ["64x64"]),
        ({"size": "64x16"}, "size", ["128x32"]),
        ({"size": "128x128"}, "size", ["0.0125 megapixels"]),
        ({"size": "2000x32"}, "size", ["128x32"]),
        ({"size": "large"}, "size", ["64x64", "auto"]),
        ({"size": "064x64"}, "size", ["64x64"]),
        ({"size": "64x64x3"}, "size", ["WIDTHxHEIGHT"]),
        ({"size": "-64x64"}, "size", ["WIDTHxHEIGHT"]),
        ({"size": ""}, "size", ["WIDTHxHEIGHT"]),
        ({"steps": 11}, "steps", ["at most 10"]),
        ({"steps": 0}, "steps", []),
        ({"num_inference_steps": 11}, "steps", ["at most 10"]),
        ({"steps": 5, "num_inference_steps": 5}, "num_inference_steps", []),
        ({"steps": 5, "quality": "high"}, "quality", ["steps"]),
        ({"quality": "best"}, "quality", ["'low'", "'hd'"]),
        ({"seed": -1}, "seed", []),
        ({"seed": 1 << 63}, "seed", []),
        ({"seed": (1 << 63) - 1, "n": 2}, "seed", ["2**63"]),
        ({"guidance": -1}, "guidance", []),
        ({"prompt": ""}, "prompt", []),
        ({"prompt": "x" * 32001}, "prompt", ["32000"]),
        ({"negative_prompt": "rain", "guidance": 1}, "negative_prompt", ["guidance 1", "above 1"]),
        ({"style": "vivid"}, "style", ["prompt", "/v1/images/styles"]),
        ({"background": "transparent"}, "background", ["opaque"]),
        ({"output_compression": 50}, "output_compression", ["png is lossless", "jpeg or webp"]),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression", ["100"]),
        ({"output_format": "gif"}, "output_format", ["'png', 'jpeg' or 'webp'"]),
        ({"response_format": "base64"}, "response_format", ["'b64_json' or 'url'"]),
        ({"partial_images": 2}, None, ["partial_images needs stream"]),
        ({"progress": True}, None, ["progress needs stream"]),
        ({"stream": True, "partial_images": 4}, "partial_images", ["3"]),
        ({"stream": True, "response_format": "url"}, "response_format", ["b64_json"]),
        ({"loras": [{"name": "oil"}]}, "loras[0].name", ["'oil'", "watercolour, pixel-art"]),
        ({"loras": [{"name": "pixel-art"}, {"name": "pixel-art"}]}, "loras", ["twice"]),
        ({"loras": [{"name": "pixel-art", "weight": 9}]}, "loras[0].weight", ["4"]),
        ({"loras": "oil"}, "loras", ["JSON"]),
        ({"controls": [{"type": "pose", "image": ENCODED}]}, "controls[0].type", ["'pose'", "canny, depth"]),
        ({"controls": [{"type": "canny", "image": "cGljdHVyZQ=="}]}, "controls[0].image", ["png, jpeg or webp"]),
        ({"controls": [{"type": "canny", "image": "http://a/b"}]}, "controls[0].image", ["not fetched"]),
        ({"controls": [{"type": "canny", "image": ENCODED}] * 2}, "controls", ["twice"]),
        ({"moderation": "none"}, "moderation", []),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_generation_that_cannot_be(refused, sent, param, named):
    message = await refused(GENERATIONS, {"model": "painter", "prompt": "a cat"} | sent, param)
    assert [word for word in named if word not in message] == [], message


@pytest.mark.parametrize(
    "field", ["frame_count", "svg", "complexity", "image", "mask", "strength", "input_fidelity", "nonsense"]
)
async def test_a_field_that_is_not_known_is_refused_by_its_name(refused, field):
    body = {"model": "painter", "prompt": "a", field: 1}
    message = await refused(GENERATIONS, body, field, code="unsupported_parameter")
    assert field in message


async def test_what_only_this_model_lacks(refused, png):
    files = {"image": png()}
    for path, body, capability in [
        (EDITS, {"model": "turbo", "prompt": "a"}, "'edit'"),
        (VARIATIONS, {"model": "turbo"}, "'vary'"),
    ]:
        assert capability in await refused(path, body, "image", code="unsupported_parameter", files=files)
    body = {"model": "turbo", "prompt": "a", "negative_prompt": "rain", "guidance": 5}
    assert "'negative_prompt'" in await refused(GENERATIONS, body, "negative_prompt", code="unsupported_parameter")
    body = {"model": "turbo", "prompt": "a", "loras": [{"name": "pixel-art"}]}
    assert "(none)" in await refused(GENERATIONS, body, "loras[0].name")


@pytest.mark.parametrize(
    ("path", "model", "task"),
    [(GENERATIONS, "upscaler", "images"), (UPSCALES, "painter", "upscaling"), (STYLES, "painter", "styles")],
)
async def test_a_model_of_another_task(refused, path, model, task):
    body = {"model": model, "prompt": "a"} if path == GENERATIONS else {"model": model, "image": ENCODED}
    if path == STYLES:
        body["style"] = "negative"
    assert task in await refused(path, body, "model")


async def test_a_model_that_is_not_there(refused):
    body = {"model": "dall-e-2", "prompt": "a"}
    await refused(GENERATIONS, body, "model", status=404, code="model_not_found")


async def test_a_field_that_is_missing(refused, png):
    await refused(GENERATIONS, {"model": "painter"}, "prompt")
    await refused(EDITS, {"prompt": "a"}, "image")
    await refused(EDITS, {}, "prompt", files={"image": png()})
    await refused(VARIATIONS, {}, "image")
    await refused(UPSCALES, {}, "image")
    assert "style" in await refused(STYLES, {}, None, files={"image": png()})


async def test_the_numbers_of_a_form_are_checked_as_those_of_json(refused, png):
    for field, value in [("n", "many"), ("n", "1.5"), ("strength", "nan"), ("strength", "0"), ("guidance", "inf")]:
        await refused(EDITS, {"prompt": "a", field: value}, field, files={"image": png()})
    await refused(EDITS, {"prompt": "a", "stream": "perhaps"}, "stream", files={"image": png()})


async def test_several_pictures_to_edit(refused, png):
    files = [("image[]", png()), ("image[]", png())]
    assert "one picture; there are 2" in await refused(EDITS, {"prompt": "a"}, "image", files=files)


async def test_a_mask_of_another_size(refused, png):
    files = {"image": png(size=(64, 48)), "mask": png(size=(64, 64))}
    message = await refused(EDITS, {"prompt": "a"}, "mask", code="invalid_media", files=files)
    assert "64x64" in message
    assert "64x48" in message


async def test_a_mask_without_a_picture(refused, png):
    await refused(EDITS, {"prompt": "a"}, "image", files={"mask": png()})


async def test_input_fidelity_leads_to_strength(refused, png):
    body = {"prompt": "a", "input_fidelity": "high"}
    assert "strength" in await refused(EDITS, body, "input_fidelity", files={"image": png()})


def jpeg_claiming(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + b"\0" * 20


BAD_PICTURES = {
    "empty": (b"", 400),
    "text": (b"hello", 400),
    "gif": (None, 400),
    "svg": (b"<svg/>", 400),
    "cut": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", 400),
    "bomb": (jpeg_claiming(60_000, 60_000), 413),
    "a little too large": (jpeg_claiming(400, 251), 413),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
@pytest.mark.parametrize(
    "endpoint",
    [
        (EDITS, {"prompt": "a"}, "image"),
        (EDITS, {"prompt": "a"}, "mask"),
        (VARIATIONS, {}, "image"),
        (UPSCALES, {}, "image"),
        (STYLES, {"style": "negative"}, "image"),
        (STYLES, {}, "style_image"),
    ],
)
async def test_a_picture_that_is_none(refused, png, name, endpoint):
    path, body, field = endpoint
    data, status = BAD_PICTURES[name]
    if data is None:
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "GIF")
        data = file.getvalue()
    files = {"image": png(), field: data}
    code = "invalid_media" if status == 400 else "payload_too_large"
    message = await refused(path, body, field, status=status, code=code, files=files)
    assert field in message
    as_json = body | {key: base64.b64encode(value).decode() for key, value in files.items()}
    await refused(path, as_json, field, status=status, code=code)


@pytest.mark.parametrize(
    "picture", ["http://127.0.0.1/a.png", "https://a/b", "HTTPS://a", "file:///etc/passwd", "a b!"]
)
async def test_nothing_is_fetched(refused, picture):
    await refused(VARIATIONS, {"image": picture}, "image")
    await refused(EDITS, {"prompt": "a", "images": [{"image_url": picture}]}, "images[0]")


@pytest.mark.parametrize("picture", [{"file_id": "file-1"}, {}, 5, None, ["a"], {"image_url": 5}, "data:image/png,a"])
async def test_what_is_no_picture_in_json(refused, picture):
    await refused(VARIATIONS, {"image": picture}, "image")


async def test_an_upscaler_has_one_scale(refused, png):
    assert "4 times" in await refused(UPSCALES, {"scale": "2"}, "scale", files={"image": png()})


async def test_a_style_that_is_not_known(refused, png):
    for name, told in [("baroque", "It has negative, rolled"), ("negatve", "Did you mean negative?")]:
        assert told in await refused(STYLES, {"style": name}, "style", files={"image": png()})
    both = {"image": png(), "style_image": png()}
    assert "either" in await refused(STYLES, {"style": "negative"}, None, files=both)


async def test_what_jpeg_has_not(refused, png):
    body = {"output_format": "jpeg", "background": "transparent"}
    assert "png or webp" in await refused(UPSCALES, body, "background", files={"image": png()})


# Which model makes it when none is named


LOADING = ModelState(State.LOADING)


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ((None, {}), "painter"),
        ((None, {"painter": LOADING}), "turbo"),
        (({"turbo"}, {}), "turbo"),
        (({"turbo"}, {"turbo": LOADING}), 503),
        ((None, {"painter": LOADING, "turbo": LOADING}), 400),
        ((set(), {}), 400),
    ],
    ids=str,
)
async def test_a_request_without_a_model(image_router, open_http, assert_error, running, expected):
    only, states = running
    async with open_http(image_router(states, only)) as http:
        response = await http.post(GENERATIONS, json={"prompt": "a"})
    if isinstance(expected, str):
        assert response.json()["model"] == expected
    else:
        error = assert_error(response, expected)
        if expected == 400:
            assert error["param"] == "model"
            assert "painter, turbo" in error["message"]
