"""What is asked, and when: the traffics of `benchmarks.goodput`.

When requests are due and how large they are follows from the seed. Their words do not: they are new in each run, so
that no prompt has its beginning in a cache.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from loadtest.arrivals import Arrival, Stage, of_stages, of_trace
from loadtest.tasks.chat import WORDS
from loadtest.tasks.images import COLOURS, SHAPES

CHAT, EMBEDDINGS, PICTURES = "smollm2-135m-instruct", "all-minilm-l6-v2", "doodle"
# Of SmolLM2's chat template, for a system message and one of the user. Each of WORDS is one token.
TEMPLATE_TOKENS = 14
MOST_PROMPT_TOKENS, MOST_ANSWER_TOKENS = 512, 64
BURST = 64
SIZES, STEPS = ("32x32", "64x64", "96x96", "128x128"), (4, 10, 20, 30)
# Tokens to read and to write, the words of each text, or a picture's pixels and steps.
Size = Any
# A path, what is sent there, and how much a whole answer has.
Made = tuple[str, dict[str, Any], int]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a schedule.

    Attributes:
        at: seconds from the start. amount: tokens, vectors or pictures that a whole answer has.
    """

    at: float
    path: str
    body: bytes
    amount: int
    stream: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """
    Attributes:
        kinds: of requests; several come one after the other, each for the same time.
        burst: requests that come at once, at the start and in the middle, instead of a rate.
        cold: the cluster is started anew, and the traffic is there at once.
    """

    model: str
    kinds: tuple[str, ...]
    burst: int = 0
    cold: bool = False


TRAFFICS = {
    "short": Traffic(CHAT, ("short",)),
    "long": Traffic(CHAT, ("long",)),
    "mixed": Traffic(CHAT, ("mixed",)),
    "change": Traffic(CHAT, ("short", "long")),
    "burst": Traffic(CHAT, ("short",), burst=BURST),
    "cold": Traffic(CHAT, ("mixed",), cold=True),
    "azure-chat": Traffic(CHAT, ("azure-chat",)),
    "azure-code": Traffic(CHAT, ("azure-code",)),
    "embeddings": Traffic(EMBEDDINGS, ("embeddings",)),
    "pictures": Traffic(PICTURES, ("pictures",)),
}
TRACES = {"azure-chat": "azure-2023-chat.csv", "azure-code": "azure-2023-code.csv"}


def missing_trace(traffic: Traffic, traces: Path) -> Path | None:
    """The trace that the traffic replays, if it is not there."""
    files = [traces / TRACES[kind] for kind in traffic.kinds if kind in TRACES]
    return next((file for file in files if not file.is_file()), None)


def schedule(
    traffic: Traffic, rates: dict[str, float], seconds: float, seed: int, *, salt: str, traces: Path
) -> list[Asked]:
    """Requests in the order in which they are due.

    Args:
        rates: requests a second, by kind. salt: of the words; another one in each run.
    """
    draw, words = random.Random(f"{seed} sizes"), random.Random(f"{seed} words {salt}")
    found = []
    for arrival, kind in moments(traffic, rates, seconds, seed, traces):
        size = size_of(arrival) if arrival.prompt_tokens else size_drawn(kind, draw, traces)
        found.append(asked(arrival.at, kind, size, words))
    return found


def moments(
    traffic: Traffic, rates: dict[str, float], seconds: float, seed: int, traces: Path
) -> list[tuple[Arrival, str]]:
    """When a request is due, and of which kind. A trace says its size, too."""
    if traffic.burst:
        (kind,) = traffic.kinds
        return [(Arrival(at), kind) for at in (0.0, seconds / 2) for _ in range(traffic.burst)]
    length = seconds / len(traffic.kinds)
    found = []
    for place, kind in enumerate(traffic.kinds):
        if kind in TRACES:
            arrivals = of_part(rows(traces / TRACES[kind]), round(rates[kind] * length), length, seed)
        else:
            arrivals = of_stages([Stage(rates[kind], length)], seed + place)
        found += [(Arrival(place * length + one.at, one.prompt_tokens, one.output_tokens), kind) for one in arrivals]
    return found


def of_part(trace: Sequence[Arrival], count: int, seconds: float, seed: int) -> list[Arrival]:
    """`count` requests of a trace in a row, from a place that the seed decides, scaled so that they take `seconds`."""
    count = max(1, min(count, len(trace) - 1))
    place = random.Random(f"{seed} trace").randrange(len(trace) - count)
    part, end = trace[place : place + count], trace[place + count].at
    scale = seconds / max(end - part[0].at, 1e-6)
    return [Arrival((one.at - part[0].at) * scale, one.prompt_tokens, one.output_tokens) for one in part]


@cache
def rows(trace: Path) -> tuple[Arrival, ...]:
    return tuple(of_trace(trace, 1.0))


def size_of(row: Arrival) -> Size:
    return min(row.prompt_tokens or 1, MOST_PROMPT_TOKENS), min(max(2, row.output_tokens or 1), MOST_ANSWER_TOKENS)


def size_drawn(kind: str, draw: random.Random, traces: Path) -> Size:
    if kind in TRACES:
        return size_of(draw.choice(rows(traces / TRACES[kind])))
    if kind == "mixed":
        kind = "short" if draw.random() < 0.7 else "long"
    if kind in ("short", "long"):
        prompt, answer = (30, 16) if kind == "short" else (400, 48)
        return round(prompt * draw.uniform(0.75, 1.25)), round(answer * draw.uniform(0.75, 1.25))
    if kind == "embeddings":
        return [draw.randint(5, 60) for _ in range(round(1000 ** draw.random()))]
    return draw.choice(SIZES), draw.choice(STEPS)


def asked(at: float, kind: str, size: Size, words: random.Random) -> Asked:
    """A request of this kind and size."""
    make = {"embeddings": texts, "pictures": picture}.get(kind, chat)
    path, body, amount = make(size, words)
    return Asked(at, path, json.dumps(body).encode(), amount, bool(body.get("stream")))


def chat(size: Size, words: random.Random) -> Made:
    prompt, answer = size
    # The system message comes first, and without one of our own all prompts would begin alike.
    messages = [
        {"role": "system", "content": some(words, 3)},
        {"role": "user", "content": some(words, max(1, prompt - TEMPLATE_TOKENS - 3))},
    ]
    body = {
        "model": CHAT,
        "messages": messages,
        "max_tokens": answer,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return "/v1/chat/completions", body, answer


def texts(size: Size, words: random.Random) -> Made:
    body = {"model": EMBEDDINGS, "input": [some(words, count) for count in size], "encoding_format": "base64"}
    return "/v1/embeddings", body, len(size)


def picture(size: Size, words: random.Random) -> Made:
    pixels, steps = size
    ink, ground = words.sample(COLOURS, 2)
    body = {
        "model": PICTURES,
        "prompt": f"a {ink} {words.choice(SHAPES)} on a {ground} background",
        "seed": words.randrange(1 << 31),
        "size": pixels,
        "steps": steps,
        "response_format": "b64_json",
    }
    return "/v1/images/generations", body, 1


def some(words: random.Random, count: int) -> str:
    return " ".join(words.choices(WORDS, k=count))
