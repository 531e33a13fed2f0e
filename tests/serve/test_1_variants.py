"""Variants beside their references: each serves, means what its reference means, and is told by its name. Nothing is
deployed; what sleeps is woken by its first request."""

import base64
import io

import httpx
import numpy as np
import pytest
from local_cluster import CHAT, EMBEDDINGS
from PIL import Image

from workshop.evaluation.pictures import psnr
from workshop.starter.doodle.judge import see

TURBO, UPSCALER, STYLES = "doodle-turbo", "realesr-animevideov3", "magenta-styles"
PROMPT = "a red circle on a blue background"


def test_a_quantized_chat_model_knows_the_capital_of_france(http, client):
    assert http.get(f"/v1/models/{CHAT}").json()["variant"] == "vllm-cpu-int8"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = client.chat.completions.create(model=CHAT, messages=question, temperature=0, max_tokens=24)
    assert "Paris" in answer.choices[0].message.content


def scene() -> bytes:
    """A picture with flat parts, an edge and a gradient."""
    across, down = np.meshgrid(np.linspace(0, 1, 160), np.linspace(0, 1, 160))
    pixels = np.stack([across, down, (across + down > 1).astype(float)], axis=-1)
    file = io.BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels_of(answer: httpx.Response) -> np.ndarray:
    assert answer.is_success, answer.text
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def painted(http: httpx.Client, model: str) -> np.ndarray:
    return pixels_of(http.post("/v1/images/generations", json={"model": model, "prompt": PROMPT, "seed": 3}))


def upscaled(http: httpx.Client, model: str) -> np.ndarray:
    return pixels_of(http.post("/v1/images/upscales", data={"model": model}, files={"image": scene()}))


def stylized(http: httpx.Client, model: str) -> np.ndarray:
    body = {"model": model, "style": "starry-swirls"}
    return pixels_of(http.post("/v1/images/styles", data=body, files={"image": scene()}))


@pytest.mark.parametrize(
    ("ask", "model", "variant", "least_db"),
    [
        (painted, TURBO, "onnx-int8", 20),
        (upscaled, UPSCALER, "onnx-int8", 30),
        (stylized, STYLES, "onnx-fused", 40),
    ],
)
def test_a_variant_serves_what_its_reference_serves(*, ask, model, variant, least_db, http):
    beside = f"{model}@{variant}"
    expected, found = ask(http, model), ask(http, beside)
    assert http.get(f"/v1/models/{beside}").json()["variant"] == variant
    assert found.shape == expected.shape
    likeness = psnr(found, expected)
    print(f"\n{beside}: {likeness:.1f} dB to its reference")
    assert least_db <= likeness < 100  # it is another way of computing, so not the same to the byte
    if model == TURBO:
        seen = see(Image.fromarray(found))
        assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")


def test_two_variants_of_one_model_are_told_by_their_names(http):
    beside = f"{EMBEDDINGS}@onnx-int8"
    sentences = ["How do I reset my password?", "A recipe for apple pie", "Steps to recover a forgotten login"]

    def vectors(model: str) -> np.ndarray:
        answer = http.post("/v1/embeddings", json={"model": model, "input": sentences}).json()
        assert answer["model"] == (beside if model == beside else EMBEDDINGS), answer
        return np.array([item["embedding"] for item in answer["data"]])

    plain, named, other = (vectors(name) for name in (EMBEDDINGS, f"{EMBEDDINGS}@onnx", beside))
    assert np.array_equal(plain, named)
    assert np.sum(plain * other, axis=1).min() > 0.98
    assert not np.array_equal(plain, other)
    for found in (plain, other):  # the two about passwords are nearer to each other than to the pie
        assert found[0] @ found[2] > found[0] @ found[1] + 0.2
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert (cards[EMBEDDINGS]["variant"], cards[beside]["variant"]) == ("onnx", "onnx-int8")
    missing = http.post("/v1/embeddings", json={"model": f"{EMBEDDINGS}@onnx-int4", "input": "hi"})
    assert missing.status_code == 404
    assert beside in missing.json()["error"]["message"]
