"""Which pictures may leave the cluster, and a judge's verdict on one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class OutputPolicy(BaseModel):
    """Which pictures are withheld. Off by default. When enabled, it also withholds a picture that cannot be judged.

    Attributes:
        enabled: have every finished picture judged by Open NSFW.
        nsfw_threshold: the score at which a picture is withheld. Open NSFW's authors call scores below 0.2 safe and
            scores above 0.8 highly likely to be unsafe.
        second_opinion: also ask NudeNet, which detects parts of the body. It can only withhold more pictures. Its
            weights are under the AGPL-3.0.
        nudity_threshold: the score of an exposed part at which a picture is withheld. NudeNet itself reports scores
            of 0.2 and more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = False
    nsfw_threshold: float = Field(default=0.5, gt=0, le=1)
    second_opinion: bool = False
    nudity_threshold: float = Field(default=0.4, gt=0, le=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Attributes:
        judge: the name of the one that decided; empty if none could.
        scores: the judge's measurements by name, 0 to 1.
    """

    withheld: bool
    judge: str
    scores: dict[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Methods block and are called from one thread at a time."""

    name: str

    def judge(self, pixels: np.ndarray) -> Verdict:
        """The verdict on a picture: uint8, shape (height, width, 3), RGB."""
        ...
