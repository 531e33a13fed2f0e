"""A small picture made larger."""

from __future__ import annotations

import random
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model, Request
from loadtest.pictures import drawn, wrong_with


class Upscaling:
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        side = options.get("side", draw.choice((64, 96, 128)))
        picture = ("small.png", "image/png", drawn(draw, side))
        return Request("/v1/images/upscales", {"model": model.id}, {"image": picture}, wants=(side, model.card))

    def check(self, request: Request, answer: Answer) -> str:
        side, card = request.wants
        larger = side * card.get("scale", 4)
        return wrong_with(answer.documents, 1, larger, larger)

    def amount(self, answer: Answer) -> int:
        return len(answer.documents[0].get("data", ()))


KIND = Upscaling()
