"""A picture in one of the model's named styles."""

from __future__ import annotations

import random
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model, Request
from loadtest.pictures import drawn, wrong_with


class Styles:
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        side = options.get("side", draw.choice((128, 256)))
        body = {"model": model.id, "style": draw.choice(model.card["styles"])}
        return Request("/v1/images/styles", body, {"image": ("scene.png", "image/png", drawn(draw, side))}, wants=side)

    def check(self, request: Request, answer: Answer) -> str:
        return wrong_with(answer.documents, 1, request.wants, request.wants)

    def amount(self, answer: Answer) -> int:
        return len(answer.documents[0].get("data", ()))


KIND = Styles()
