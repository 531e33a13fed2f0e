"""/v1/audio/tones."""

from __future__ import annotations

from models.tasks.tones import PLAY, TASK, ToneRequest, Tones
from pydantic import Field

from deployments.router.endpoint import Content, Example, endpoint
from deployments.router.wire import WireModel
from models.errors import InvalidRequest
from models.specs import ModelSpec


class ToneBody(WireModel):
    model: str | None = Field(default=None, min_length=1, max_length=256)
    input: str = Field(min_length=1, max_length=1000)
    pitch: str | None = Field(default=None, max_length=100)
    """One of the model's; its first one if left out."""


def to_request(body: ToneBody, spec: ModelSpec) -> ToneRequest:
    pitches = sorted(TASK.settings_of(spec).pitches)
    if body.pitch not in (None, *pitches):
        raise InvalidRequest(f"{spec.id} has the pitches {', '.join(pitches)}, not {body.pitch!r}.", "pitch")
    return ToneRequest(body.input, body.pitch or pitches[0])


def to_answer(result: Tones, body: ToneBody, spec: ModelSpec) -> Content:
    return Content(result.sound, "audio/wav", {"x-audio-seconds": f"{result.seconds:.3f}"})


EXAMPLE = Example("/v1/audio/tones", {"input": "la la la", "pitch": "low"})

router = endpoint(
    EXAMPLE,
    TASK,
    PLAY,
    ToneBody,
    to_request=to_request,
    to_answer=to_answer,
    tag="Sound",
    summary="Play a text as tones",
    about="A tone for each letter, as a WAV file.",
    media_type="audio/wav",
)
