"""What pictures may leave the cluster, and what a judge says of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class OutputPolicy(BaseModel):
    """Which pictures are withheld. Off unless enabled; when it is, a picture that cannot be judged is withheld too.

    Attributes:
        enabled: have every finished picture judged by Open NSFW.
        nsfw_threshold: withheld from this score on. Open NSFW's authors call scores below 0.2 safe and above 0.8 most
            likely not.
        second_opinion: also ask NudeNet, which finds parts of the body. It can only withhold more. Its weights are
            under the AGPL-3.0.
        nudity_threshold: withheld from this score of an exposed part on. NudeNet itself reports from 0.2 on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    nsfw_threshold: float = Field(default=0.5, gt=0, le=1)
    second_opinion: bool = False
    nudity_threshold: float = Field(default=0.4, gt=0, le=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Attributes:
        judge: who decided; empty if nobody could.
        scores: what the judge measured, by name, from 0 to 1.
    """

    withheld: bool
    judge: str
    scores: dict[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Methods block and are called from one thread at a time."""

    name: str

    def judge(self, pixels: np.ndarray) -> Verdict:
        """Of uint8, shape (height, width, 3), RGB."""
        ...
