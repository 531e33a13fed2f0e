"""Hostile requests of many kinds, made from a seed: another seed gives other members of the same kinds."""

from __future__ import annotations

import random
from collections.abc import Collection

import hostile_bodies
import hostile_headers
import hostile_http
import hostile_work
from kinds import KINDS
from sending import Request

# Importing them fills KINDS.
OF_KINDS = (hostile_work, hostile_bodies, hostile_headers, hostile_http)


# Kinds of requests that are allowed, and ask for much work. How much of it others must bear is decided by admission.
MUCH_WORK = ("multipliers", "crowds", "clients_that_do_not_read")
ATTACKS = tuple(name for name in KINDS if name not in MUCH_WORK)


def plan(seed: int, members: int, kinds: Collection[str]) -> list[tuple[str, int]]:
    """Names of kinds and seeds of requests, each kind so many times, in an order of the seed."""
    draw = random.Random(seed)
    chosen = [(name, draw.getrandbits(32)) for name in kinds for _ in range(members)]
    draw.shuffle(chosen)
    return chosen


def made(name: str, seed: int) -> Request:
    return KINDS[name](random.Random(seed))


if __name__ == "__main__":  # python tests/adversary/hostile.py ADDRESS KIND SEED sends one request again
    import sys

    from sending import exchange

    again = made(sys.argv[2], int(sys.argv[3]))
    print(again, exchange(sys.argv[1], again), sep="\n")
