"""Variants on the starter cluster: each serves, means what its reference means, and is told by its name."""

import base64
import copy
import io
import threading
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starter_cluster import CHAT, EMBEDDINGS, MEDLEY, Cluster, run

from models.evaluation.pictures import psnr
from models.starter.doodle.judge import see

TURBO, UPSCALER, STYLES = "doodle-turbo", "realesr-animevideov3", "magenta-styles"
VARIANTS = {TURBO: "onnx-int8", UPSCALER: "onnx-int8", STYLES: "onnx-fused"}
BESIDE = f"{EMBEDDINGS}@onnx-int8"
PROMPT = "a red circle on a blue background"
SENTENCES = ["How do I reset my password?", "A recipe for apple pie", "Steps to recover a forgotten login"]


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


def painted(http: httpx.Client) -> np.ndarray:
    return pixels_of(http.post("/v1/images/generations", json={"model": TURBO, "prompt": PROMPT, "seed": 3}))


def upscaled(http: httpx.Client) -> np.ndarray:
    return pixels_of(http.post("/v1/images/upscales", data={"model": UPSCALER}, files={"image": scene()}))


def stylized(http: httpx.Client) -> np.ndarray:
    body = {"model": STYLES, "style": "starry-swirls"}
    return pixels_of(http.post("/v1/images/styles", data=body, files={"image": scene()}))


def vectors(http: httpx.Client, model: str) -> np.ndarray:
    answer = http.post("/v1/embeddings", json={"model": model, "input": SENTENCES}).json()
    assert answer["model"] in (EMBEDDINGS, BESIDE), answer
    return np.array([item["embedding"] for item in answer["data"]])


# How a picture is asked for, and how like its reference's it must be, in dB.
ASK = {TURBO: (painted, 20), UPSCALER: (upscaled, 30), STYLES: (stylized, 40)}


@pytest.fixture(scope="module")
def before(cluster):
    """What the references answer."""
    with httpx.Client(base_url=cluster.address, timeout=120, trust_env=False) as http:
        return {model: ask(http) for model, (ask, _) in ASK.items()}


def built(model: str, variant: str) -> None:
    """As an operator does it before a deploy; on a machine that has it already, at once."""
    print(run([*MEDLEY, "variant", "build", model, "--to", variant]))


@pytest.fixture(scope="module")
def variants(cluster, before):
    """The starter cluster with other variants of its models, and two of the embedding model."""
    for model, variant in {**VARIANTS, EMBEDDINGS: "onnx-int8"}.items():
        built(model, variant)
    document = cluster.without("doodle")  # for room: with all of them, the two cores are taken
    for entry in document["applications"]:
        if entry["name"] in VARIANTS:
            entry["args"] |= {"variant": VARIANTS[entry["name"]]}
    (embeddings,) = [entry for entry in document["applications"] if entry["name"] == EMBEDDINGS]
    embeddings["args"] |= {"variant": "onnx"}
    beside = copy.deepcopy(embeddings)
    beside["name"], beside["args"] = BESIDE, {"model": BESIDE, "release": "1"}
    document["applications"].insert(-1, beside)
    cluster.deploy(document)
    yield document
    cluster.deploy(cluster.document)


@pytest.mark.parametrize("model", VARIANTS)
def test_a_variant_serves_what_its_reference_serves(variants, before, http, model):
    ask, least_db = ASK[model]
    found = ask(http)
    assert http.get(f"/v1/models/{model}").json()["variant"] == VARIANTS[model]
    assert found.shape == before[model].shape
    likeness = psnr(found, before[model])
    print(f"\n{model}@{VARIANTS[model]}: {likeness:.1f} dB to its reference")
    assert least_db <= likeness < 100  # it is another way of computing, so not the same to the byte
    if model == TURBO:
        seen = see(Image.fromarray(found))
        assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")


def test_two_variants_of_one_model_are_told_by_their_names(cluster, variants, http):
    plain, named, other = (vectors(http, name) for name in (EMBEDDINGS, f"{EMBEDDINGS}@onnx", BESIDE))
    assert np.array_equal(plain, named)
    cosines = np.sum(plain * other, axis=1)
    assert cosines.min() > 0.98
    assert not np.array_equal(plain, other)
    for found in (plain, other):  # the two about passwords are nearer to each other than to the pie
        assert found[0] @ found[2] > found[0] @ found[1] + 0.2
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert cards[EMBEDDINGS]["variant"] == "onnx"
    assert cards[BESIDE]["variant"] == "onnx-int8"
    missing = http.post("/v1/embeddings", json={"model": f"{EMBEDDINGS}@onnx-int4", "input": "hi"})
    assert missing.status_code == 404
    assert BESIDE in missing.json()["error"]["message"]


def alone(cluster: Cluster, model: str, variant: str) -> dict[str, Any]:
    """The starter cluster with this variant, and without what is not needed: two of a model must fit on two cores."""
    document = cluster.with_args(model, variant=variant)
    needed = (CHAT, EMBEDDINGS, "router")
    document["applications"] = [entry for entry in document["applications"] if entry["name"] in needed]
    return document


def test_a_quantized_chat_model_knows_the_capital_of_france(cluster, variants, http):
    built(CHAT, "vllm-cpu-int8")
    cluster.deploy(alone(cluster, CHAT, "vllm-cpu-int8"))
    assert http.get(f"/v1/models/{CHAT}").json()["variant"] == "vllm-cpu-int8"
    question = {"role": "user", "content": "What is the capital of France?"}
    body = {"model": CHAT, "messages": [question], "temperature": 0, "max_tokens": 24}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_a_switch_from_the_reference_to_a_variant_under_load_fails_no_request(cluster, variants):
    """The reference comes first, then the int8 variant in its place, while eight clients ask all the time."""
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=cluster.address, timeout=120, trust_env=False) as http:
            while not done.is_set():
                body = {"model": EMBEDDINGS, "input": "a ship"}
                statuses[http.post("/v1/embeddings", json=body).status_code] += 1
                time.sleep(0.01)

    cluster.deploy(alone(cluster, EMBEDDINGS, "torch"))
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        cluster.deploy(alone(cluster, EMBEDDINGS, "onnx-int8"))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    print(f"\nanswers during the switch: {dict(statuses)}")
    assert set(statuses) == {200}
    assert statuses[200] > 100
    assert httpx.get(f"{cluster.address}/v1/models/{EMBEDDINGS}", trust_env=False).json()["variant"] == "onnx-int8"
