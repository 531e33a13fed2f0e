"""Tones: text in, a tone for each of its letters out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from models.tasks.methods import Unary, always
from models.tasks.task import Settings, Task
from models.tasks.usage import AUDIO_SECONDS, CHARACTERS, Usage


class ToneSettings(Settings):
    pitches: dict[str, float] = Field(min_length=1, description="name -> Hz of the letter a")

    def card(self) -> dict[str, Any]:
        return {"pitches": sorted(self.pitches)}


@dataclass(frozen=True, slots=True)
class ToneRequest:
    """
    Attributes:
        pitch: one of the model's.
    """

    text: str
    pitch: str


@dataclass(frozen=True, slots=True)
class Tones:
    """
    Attributes:
        sound: a WAV file, 16 bits, mono.
    """

    sound: bytes
    seconds: float
    characters: int

    @property
    def usage(self) -> Usage:
        return Usage({AUDIO_SECONDS: self.seconds, CHARACTERS: self.characters})


PLAY = Unary("play", ToneRequest, Tones, large=always)

TASK = Task(
    "tones",
    ToneSettings,
    methods=(PLAY,),
    counts=(CHARACTERS, AUDIO_SECONDS),
    sample=lambda settings: (PLAY(ToneRequest("la", min(settings.pitches))),),
    batched=True,
)
