"""Tones by arithmetic: there is no model."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from models.tasks.tones import TASK, ToneRequest, Tones

from models.specs import ModelSpec, VariantSpec

RATE = 16_000
TONE_S = 0.05


class Engine:
    largest_batch = 8
    largest_cost = 4096.0

    def __init__(self, pitches: Mapping[str, float]):
        self.pitches = pitches

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls(TASK.settings_of(spec).pitches)

    def cost(self, request: ToneRequest) -> float:
        return len(request.text)

    def run(self, requests: Sequence[ToneRequest]) -> list[Tones]:
        return [self.play(request) for request in requests]

    def play(self, request: ToneRequest) -> Tones:
        moments = np.arange(round(RATE * TONE_S)) / RATE
        steps = [ord(letter.lower()) % 128 - ord("a") for letter in request.text]
        waves = [np.sin(2 * np.pi * self.pitches[request.pitch] * 2 ** (step / 12) * moments) for step in steps]
        samples = (np.concatenate(waves) * 20_000).astype("<i2")
        return Tones(wav(samples), len(samples) / RATE, len(request.text))


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes(samples.tobytes())
    return file.getvalue()
