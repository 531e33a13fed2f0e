"""A router on a virtual clock: it chooses a replica, as Serve does, and keeps the turns of those that were refused,
with the code of real routers (deployments/router/returns.py)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from deployments.router.returns import Returns, in_time, worth_waiting
from medley.simulation.replica import Asked, Replica
from models.errors import TooBusy


class Router:
    """
    Args:
        replicas: those that take requests; the list may change.
        returns: None if no turns are kept.
        name: replicas tell routers apart by it.
    """

    def __init__(self, replicas: Sequence[Replica], returns: Returns | None = None, seed: int = 0, name: str = "r"):
        self.replicas = replicas
        self.returns = returns
        self.draw = random.Random(seed)
        self.name = name

    def ask(self, asked: Asked, now: float) -> float | None:
        """Returns None if the request is let in; else the seconds after which it may come again, which are infinite if
        that does not help. If it `waits`, the router itself has to ask again then."""
        digest, count = str(id(asked)).encode(), max(1, len(self.replicas))
        returns = self.returns
        waited = asked.waits
        turn = returns.comes(digest, now) if returns and not waited else None
        in_turn = waited or (turn is not None and in_time(turn, now))
        if waited and returns is not None:
            returns.waiting_s -= asked.work_s
        terms = replace(
            asked.terms, again=asked.tried > 0, returns=in_turn, waited_s=max(0.0, now - asked.at), router=self.name
        )
        asked.waits = False
        if returns is not None:
            terms = replace(terms, ahead_s=returns.ahead_s(now) / count, told_s=returns.pending_s(now))
        for replica in self.chosen(now):
            asked.terms = terms
            if replica.ask(asked, now):
                return None
            terms = replace(terms, again=True)
        error = asked.refused
        if not isinstance(error, TooBusy):
            return float("inf")
        if returns is None:
            return max(1.0, error.room_s)
        if in_turn and worth_waiting(terms, error):
            asked.waits, asked.work_s = True, error.work_s
            returns.waiting_s += error.work_s
            return error.room_s
        if waited:
            asked.terms = replace(terms, sure=True)
            self.chosen(now)[0].ask(asked, now)
            return None
        return returns.refused(digest, error, count, now)

    def chosen(self, now: float) -> list[Replica]:
        """Two of the replicas, the one with fewer requests first."""
        some = self.draw.sample(self.replicas, min(2, len(self.replicas)))
        for replica in some:
            replica.until(now)
        return sorted(some, key=lambda replica: len(replica.inside))
