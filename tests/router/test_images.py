"""Pictures through the official client."""

import asyncio
import base64
import io
import json

import numpy as np
import openai
import pytest
from PIL import Image

from deployments.router.routes import example_of
from models.tasks import BY_NAME
from models.tasks.images import Adapter


def picture_of(item) -> bytes:
    return base64.b64decode(item.b64_json)


async def test_a_prompt_gives_the_picture_it_asks_for(image_client, pixels):
    answer = await image_client.images.generate(model="painter", prompt="a red circle")
    (item,) = answer.data
    made = pixels(picture_of(item))
    assert made.shape == (64, 64, 3)
    red, green, blue = made.mean((0, 1))
    assert red > 200
    assert max(green, blue) < 60
    assert answer.output_format == "png"
    assert answer.size == "64x64"
    assert answer.background == "opaque"
    assert answer.quality == "medium"
    assert answer.usage.input_tokens == answer.usage.total_tokens == 3
    assert answer.usage.input_tokens_details.text_tokens == 3
    assert answer.usage.output_tokens == 0
    assert item.url is None


async def test_the_answer_says_how_to_make_it_again(image_client):
    first = await image_client.images.generate(
        model="painter",
        prompt="blue",
        n=2,
        extra_body={"seed": 41, "steps": 3, "guidance": 2.5, "scheduler": "other"},
    )
    assert [item.seed for item in first.data] == [41, 42]
    assert (first.model, first.variant, first.steps) == ("painter", "fake", 3)
    assert (first.guidance, first.scheduler) == (2.5, "other")
    assert first.usage.images == 2
    how = {name: getattr(first, name) for name in ("steps", "guidance", "scheduler")}
    again = await image_client.images.generate(
        model=first.model, prompt="blue", size=first.size, extra_body=how | {"seed": first.data[1].seed}
    )
    assert again.data[0].b64_json == first.data[1].b64_json
    assert again.data[0].b64_json != first.data[0].b64_json


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ({}, {"n": 1, "width": None, "height": None, "steps": None, "guidance": None, "seed": None, "scheduler": None}),
        ({"size": "auto"}, {"width": None, "height": None}),
        ({"size": "96x32"}, {"width": 96, "height": 32}),
        ({"n": 4}, {"n": 4}),
        ({"quality": "auto"}, {"steps": None}),
        ({"quality": "low"}, {"steps": 3}),
        ({"quality": "medium"}, {"steps": 6}),
        ({"quality": "standard"}, {"steps": 6}),
        ({"quality": "high"}, {"steps": 10}),
        ({"quality": "hd"}, {"steps": 10}),
        ({"steps": 9}, {"steps": 9}),
        ({"num_inference_steps": 9}, {"steps": 9}),
        ({"guidance_scale": 2}, {"guidance": 2.0}),
        ({"negative_prompt": "rain"}, {"negative_prompt": "rain"}),
        ({"seed": (1 << 63) - 1}, {"seed": (1 << 63) - 1}),
        ({"moderation": "low"}, {}),
        ({"user": "me"}, {}),
        ({"safety_identifier": "me"}, {}),
        ({"style": None}, {}),
    ],
    ids=str,
)
async def test_every_field_arrives(images, painter, sent, arrives):
    response = await images.post("/v1/images/generations", json={"model": "painter", "prompt": "a cat"} | sent)
    assert response.status_code == 200, response.text
    (request,) = painter.requests
    assert request.prompt == "a cat"
    assert {name: getattr(request, name) for name in arrives} == arrives


async def test_loras_and_controls_arrive(images, painter, png):
    controls = [{"type": "canny", "image": base64.b64encode(png("white")).decode(), "weight": 0.5}]
    loras = [{"name": "pixel-art"}, {"name": "watercolour", "weight": -0.25}]
    body = {"model": "painter", "prompt": "a", "controls": controls, "loras": loras}
    assert (await images.post("/v1/images/generations", json=body)).status_code == 200
    (request,) = painter.requests
    assert request.adapters == (Adapter("pixel-art", 1.0), Adapter("watercolour", -0.25))
    (control,) = request.controls
    assert (control.kind, control.image, control.weight) == ("canny", png("white"), 0.5)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_a_picture_comes_in_the_format_asked_for(image_client, painter, kind):
    answer = await image_client.images.generate(model="painter", prompt="a", output_format=kind)
    assert Image.open(io.BytesIO(picture_of(answer.data[0]))).format == kind.upper()
    assert answer.output_format == kind
    if kind != "png":
        await image_client.images.generate(model="painter", prompt="a", output_format=kind, output_compression=40)
        assert painter.requests[-1].output.compression == 40


async def test_without_a_model_the_first_that_is_ready_makes_it(image_client, painter, turbo):
    answer = await image_client.images.generate(prompt="a cat")
    assert answer.model == "painter"
    assert len(painter.requests) == 1


# Edits


async def test_a_picture_is_changed_by_a_prompt(image_client, painter, png, pixels):
    answer = await image_client.images.edit(model="painter", image=png("blue"), prompt="a red cat")
    assert answer.size == "64x48"
    assert pixels(picture_of(answer.data[0])).shape == (48, 64, 3)
    (request,) = painter.requests
    assert (request.image, request.mask, request.strength) == (png("blue"), None, None)


async def test_all_that_the_client_can_send_with_an_edit_arrives(image_client, painter, png):
    mask = png((0, 0, 0, 0), mode="RGBA")
    await image_client.images.edit(
        model="painter",
        image=[("photo.webp", png("blue", kind="WEBP"), "image/webp")],
        mask=("mask.png", mask),
        prompt="ein grüner Hund 🐕",
        n=2,
        size="32x64",
        quality="low",
        output_format="jpeg",
        output_compression=55,
        background="opaque",
        response_format="b64_json",
        user="me",
        extra_body={
            "seed": 5,
            "strength": 0.25,
            "negative_prompt": "rain",
            "guidance": 3.5,
            "scheduler": "other",
            "loras": [{"name": "pixel-art", "weight": 0.5}, {"name": "watercolour", "weight": 2}],
        },
    )
    (request,) = painter.requests
    assert (request.image, request.mask) == (png("blue", kind="WEBP"), mask)
    assert (request.prompt, request.negative_prompt, request.n) == ("ein grüner Hund 🐕", "rain", 2)
    assert (request.width, request.height, request.steps, request.guidance) == (32, 64, 3, 3.5)
    assert (request.seed, request.strength, request.scheduler) == (5, 0.25, "other")
    assert request.adapters == (Adapter("pixel-art", 0.5), Adapter("watercolour", 2))
    assert (request.output.format, request.output.compression, request.output.background) == ("jpeg", 55, "opaque")


@pytest.mark.parametrize(
    "picture",
    [
        lambda encoded: {"image": encoded},
        lambda encoded: {"image": f"data:image/png;base64,{encoded}"},
        lambda encoded: {"image": [encoded]},
        lambda encoded: {"images": [{"image_url": f"data:image/png;base64,{encoded}"}]},
        lambda encoded: {"image": "\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))},
    ],
)
async def test_an_edit_as_json(images, painter, png, picture):
    body = {
        "model": "painter",
        "prompt": "a",
        "mask": {"image_url": f"data:;base64,{base64.b64encode(png()).decode()}"},
    }
    body |= picture(base64.b64encode(png("blue")).decode())
    response = await images.post("/v1/images/edits", json=body)
    assert response.status_code == 200, response.text
    assert (painter.requests[0].image, painter.requests[0].mask) == (png("blue"), png())


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ([("controls[][image]", "white")], {"controls[][type]": "canny", "controls[][weight]": "0.5"}),
        ([("controls[][image]", "white"), ("controls[][image]", "black")], {"controls[][type]": ["canny", "depth"]}),
    ],
)
async def test_a_control_picture_comes_as_a_file(images, painter, png, files, fields):
    parts = [("image", png()), *((name, png(colour)) for name, colour in files)]
    data = {"model": "painter", "prompt": "a"} | fields
    response = await images.post("/v1/images/edits", data=data, files=parts)
    assert response.status_code == 200, response.text
    controls = painter.requests[0].controls
    assert [control.image for control in controls] == [png(colour) for _, colour in files]
    assert controls[0].kind == "canny"


async def test_lists_come_as_json_in_a_form(images, painter, png):
    data = {"model": "painter", "prompt": "a", "loras": json.dumps([{"name": "pixel-art", "weight": 0.5}])}
    assert (await images.post("/v1/images/edits", data=data, files={"image": png()})).status_code == 200
    assert painter.requests[0].adapters == (Adapter("pixel-art", 0.5),)


# Variations


async def test_a_picture_is_varied(image_client, painter, png, pixels):
    answer = await image_client.images.create_variation(model="painter", image=png("lime"), n=2)
    assert len(answer.data) == 2
    assert answer.data[0].b64_json != answer.data[1].b64_json
    red, green, blue = pixels(picture_of(answer.data[0])).mean((0, 1))
    assert green > 200
    assert max(red, blue) < 80
    (request,) = painter.requests
    assert request.prompt == ""
    assert request.strength == 0.6


async def test_how_far_a_variation_goes_can_be_said(image_client, painter, png):
    extra = {"strength": 0.3, "seed": 9, "steps": 4}
    answer = await image_client.images.create_variation(model="painter", image=png(), size="32x32", extra_body=extra)
    (request,) = painter.requests
    assert (request.strength, request.seed, request.steps, request.width) == (0.3, 9, 4, 32)
    assert answer.strength == 0.3


# Upscales and styles


async def test_a_picture_is_enlarged(images, png, pixels):
    response = await images.post("/v1/images/upscales", data={"model": "upscaler"}, files={"image": png("red", (5, 3))})
    answer = response.json()
    assert (answer["size"], answer["model"], answer["output_format"]) == ("20x12", "upscaler", "png")
    assert (pixels(base64.b64decode(answer["data"][0]["b64_json"])) == (255, 0, 0)).all()
    assert answer["usage"]["images"] == 1


async def test_an_upscale_as_json_and_without_a_model(images, png, upscaler):
    body = {"image": base64.b64encode(png()).decode(), "output_format": "webp", "background": "transparent", "scale": 4}
    answer = (await images.post("/v1/images/upscales", json=body)).json()
    assert (answer["background"], answer["output_format"]) == ("transparent", "webp")
    assert upscaler.requests[0].output.background == "transparent"


async def test_a_named_style_and_one_from_a_picture(images, png, pixels, styler):
    data = {"model": "styler", "style": "rolled", "strength": "0.5"}
    named = await images.post("/v1/images/styles", data=data, files={"image": png("red")})
    assert named.status_code == 200, named.text
    files = {"image": png("red"), "style_image": png("blue")}
    of_picture = await images.post("/v1/images/styles", data={"model": "styler"}, files=files)
    made = [pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))[0, 0] for answer in (named, of_picture)]
    assert made[0].tolist() == [128, 128, 128]  # halfway from red to its opposite
    assert made[1].tolist() == [127, 0, 127]
    assert styler.requests[0].strength == 0.5
    assert styler.requests[1].strength == 1.0


@pytest.mark.parametrize("query", ["", "?model=styler"])
async def test_the_names_of_styles_are_listed(images, query):
    answer = (await images.get(f"/v1/images/styles{query}")).json()
    assert answer == {"object": "list", "model": "styler", "data": ["negative", "rolled"]}


async def test_styles_of_a_model_that_is_not_there(images, assert_error):
    assert_error(await images.get("/v1/images/styles?model=nothing"), 404, "model_not_found")
    assert_error(await images.get("/v1/images/styles?model=painter"), 400)


# As OpenAI describes it


async def test_answers_are_as_openai_describes_them(images, conforms, png):
    responses = [
        await images.post("/v1/images/generations", json={"model": "painter", "prompt": "a cat", "n": 2}),
        await images.post("/v1/images/edits", data={"prompt": "a"}, files={"image": png()}),
        await images.post("/v1/images/variations", files={"image": png()}),
        await images.post("/v1/images/upscales", files={"image": png()}),
        await images.post("/v1/images/styles", data={"style": "negative"}, files={"image": png()}),
    ]
    for response in responses:
        document = response.json()
        # Their description lists the three sizes of their own models; their clients take any.
        assert document.pop("size") in ("64x64", "64x48", "256x192")
        conforms("ImagesResponse", document)


async def test_an_error_of_the_model_reaches_the_client_as_it_is(image_client):
    with pytest.raises(openai.BadRequestError) as caught:
        await image_client.images.generate(model="painter", prompt="unspeakable")
    assert caught.value.param == "prompt"


async def test_pictures_that_several_clients_ask_for_are_each_their_own(image_client, pixels):
    colours = ["red", "blue", "lime", "white"]
    answers = await asyncio.gather(
        *(image_client.images.generate(model="painter", prompt=colour) for colour in colours)
    )
    means = [pixels(picture_of(answer.data[0])).mean((0, 1)) for answer in answers]
    assert len({tuple(np.round(mean / 64)) for mean in means}) == 4


@pytest.mark.parametrize(("task", "model"), [("images", "turbo"), ("upscaling", "upscaler"), ("styles", "styler")])
async def test_every_model_answers_the_example_of_its_task(images, task, model):
    example = example_of(BY_NAME[task])
    response = await images.post(example.path, json=example.for_model(model))
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
