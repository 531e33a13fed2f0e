"""The judges of a content policy. They fail closed: a picture that they cannot judge is withheld."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from models.safety.nudenet import NudeNet
from models.safety.open_nsfw import OpenNsfw
from models.safety.policy import Judge, OutputPolicy, Verdict
from models.safety.sources import NUDENET, OPEN_NSFW
from models.weights import Report, fetch_source

# Seconds before another attempt to load judges that could not be loaded, for example because of a network failure.
RETRY_S = 60.0

Failure = Callable[[str, Exception], None]


def load_judges(policy: OutputPolicy, report: Report) -> Sequence[Judge]:
    """Fetch the weights of the policy's judges, and load them. Blocks, and lets any exception through."""
    judges: list[Judge] = [OpenNsfw(fetch_source("open-nsfw", OPEN_NSFW, report), policy.nsfw_threshold)]
    if policy.second_opinion:
        judges.append(NudeNet(fetch_source("nudenet", NUDENET, report), policy.nudity_threshold))
    return judges


class OutputJudges:
    """All judges of a policy. Methods block and are called from one thread at a time; none raises.

    Args:
        on_failure: is called with what failed, and the exception.
        load: loads the policy's judges.
    """

    def __init__(self, load: Callable[[], Sequence[Judge]], on_failure: Failure):
        self._load = load
        self._on_failure = on_failure
        self._judges: Sequence[Judge] = ()
        self._next_try = 0.0

    def load(self) -> None:
        try:
            self._judges = tuple(self._load())
            if not self._judges:
                raise ValueError("the policy is enabled and has no judge")
        except Exception as error:
            self._next_try = time.monotonic() + RETRY_S
            self._on_failure("the judges could not be loaded", error)

    def judge(self, pixels: np.ndarray) -> Verdict:
        """The verdict of the first judge that withholds, else of the last. Withheld by no judge if one fails."""
        if not self._judges and time.monotonic() >= self._next_try:
            self.load()
        verdict = Verdict(withheld=True, judge="")
        for judge in self._judges:
            try:
                verdict = judge.judge(pixels)
            except Exception as error:
                self._on_failure(f"{judge.name} failed on a picture", error)
                return Verdict(withheld=True, judge="")
            if verdict.withheld:
                break
        return verdict
