"""Pictures from a prompt, in the size that the model makes best unless the scenario says otherwise."""

from __future__ import annotations

import random
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model, Request
from loadtest.pictures import wrong_with

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")


class Images:
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        shape, (ink, ground) = draw.choice(SHAPES), draw.sample(COLOURS, 2)
        body = {
            "model": model.id,
            "prompt": f"a {ink} {shape} on a {ground} background",
            "seed": draw.randrange(1 << 31),
            "response_format": "b64_json",
        }
        size = options.get("size") or model.card.get("size")
        if size:
            body["size"] = size
        return Request("/v1/images/generations", body, wants=size)

    def check(self, request: Request, answer: Answer) -> str:
        wanted = request.wants or answer.documents[0].get("size", "")
        width, _, height = wanted.partition("x")
        return wrong_with(answer.documents, 1, int(width), int(height))

    def amount(self, answer: Answer) -> int:
        return len(answer.documents[0].get("data", ()))


KIND = Images()
