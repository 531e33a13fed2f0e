"""The kind of load test of a task that has none of its own: the example of the model's card, again and again.

The example is sent as it is. To change it, so that a cache does not answer, is safe only for who knows the task.
"""

from __future__ import annotations

import random
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model, Request

# How files of these types begin, with `?` for any byte: what an answer is called, it should be.
BEGINNINGS = {
    "audio/wav": b"RIFF????WAVE",
    "audio/x-wav": b"RIFF????WAVE",
    "audio/flac": b"fLaC",
    "audio/ogg": b"OggS",
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/webp": b"RIFF????WEBP",
    "video/mp4": b"????ftyp",
    "video/webm": b"\x1a\x45\xdf\xa3",
}


class Example:
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        """
        Args:
            options: fields of the body, in place of the example's.
        """
        example = model.card["example"]
        return Request(example["path"], {**example["body"], **options, "model": model.id})

    def check(self, request: Request, answer: Answer) -> str:
        if answer.documents:
            strange = [one for one in answer.documents if not isinstance(one, dict) or one.get("error")]
            return f"{str(strange[0])[:200]} came, and no answer" if strange else ""
        if not answer.data:
            return "it is empty"
        beginning = BEGINNINGS.get(answer.content_type, b"")
        if not begins_with(answer.data, beginning):
            return f"it is called {answer.content_type}, and begins with {answer.data[: len(beginning)]!r}"
        return ""

    def amount(self, answer: Answer) -> int:
        """The total that `usage` names; 1 if it names none."""
        usages = [document.get("usage") for document in answer.documents if isinstance(document, dict)]
        totals = [
            total
            for usage in usages
            if isinstance(usage, dict)
            for name, total in usage.items()
            if name.startswith("total_") and isinstance(total, int | float)
        ]
        return int(totals[-1]) if totals else 1


def begins_with(data: bytes, beginning: bytes) -> bool:
    return len(data) >= len(beginning) and all(
        wanted in (b"?"[0], found) for wanted, found in zip(beginning, data, strict=False)
    )


EXAMPLE = Example()
