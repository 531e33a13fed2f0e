"""Embeddings of one to eight sentences. Where a request has a sentence and another way to say it, those two must be
nearer to each other than to one about something else."""

from __future__ import annotations

import math
import random
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model, Request

ALIKE = (
    ("How do I reset my password?", "I forgot my login and need a new one."),
    ("The train leaves at noon.", "Departure of the train is at twelve o'clock."),
    ("She cooked soup for dinner.", "In the evening she made a soup."),
    ("The company's profits rose last year.", "Last year the firm earned more money."),
    ("It will rain tomorrow.", "The forecast for tomorrow is wet weather."),
)
OTHERS = ("Penguins cannot fly.", "He plays the violin in an orchestra.", "The bridge is made of steel.")


class Embeddings:
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        most = options.get("max_inputs", 8)
        count = min(most, draw.choice((1, 1, 1, 3, 3, 8)))
        if count < 3:
            texts = [draw.choice(draw.choice(ALIKE))]
        else:
            rest = [draw.choice(draw.choice(ALIKE)) for _ in range(count - 3)]
            texts = [*draw.choice(ALIKE), draw.choice(OTHERS), *rest]
        return Request("/v1/embeddings", {"model": model.id, "input": texts}, wants=count)

    def check(self, request: Request, answer: Answer) -> str:
        vectors = [item["embedding"] for item in answer.documents[0]["data"]]
        if len(vectors) != len(request.body["input"]):
            return f"{len(vectors)} embeddings for {len(request.body['input'])} texts"
        if len({len(vector) for vector in vectors}) != 1 or not all(math.isfinite(sum(vector)) for vector in vectors):
            return "the embeddings are not vectors of one size"
        if len(vectors) >= 3 and cosine(vectors[0], vectors[1]) <= max(
            cosine(vectors[0], vectors[2]), cosine(vectors[1], vectors[2])
        ):
            return f"{request.body['input'][:2]} are no nearer than {request.body['input'][2]!r}"
        return ""

    def amount(self, answer: Answer) -> int:
        return len(answer.documents[0]["data"])


KIND = Embeddings()


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
