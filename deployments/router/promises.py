"""The promises for models, as the terms on which requests are sent to replicas, which admit them by these.

See deployments/servers/admission.py.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deployments.router.returns import Notice, Returns
from deployments.servers.calls import Terms
from models.slo import Targets

# The weight of the newest call in its model's overhead, and the seconds after which a third of it is left.
NEWEST, MEMORY_S = 0.05, 3.0


@dataclass(frozen=True, slots=True)
class Asker:
    """
    Attributes:
        client: with whom a request shares a model: its client's address.
        identity: by which its client is known when it comes again.
        batch: it is from a batch job.
        deadline_s: the client's own limit for the whole answer.
    """

    client: str = "unknown"
    identity: str = ""
    batch: bool = False
    deadline_s: float = math.inf


@dataclass(slots=True)
class Overhead:
    """Seconds of a call that its replica does not see: the way there and back. On a busy machine they are many. What is
    long past is forgotten."""

    mean: float = 0.0
    spread: float = 0.0
    at: float = 0.0

    def learn(self, seconds: float, now: float) -> None:
        seconds, newest = max(0.0, seconds), max(NEWEST, 1 - math.exp((self.at - now) / MEMORY_S))
        self.spread += newest * (abs(seconds - self.mean) - self.spread)
        self.mean += newest * (seconds - self.mean)
        self.at = now

    def mostly(self, now: float) -> float:
        """More than most calls have."""
        return (self.mean + 2 * self.spread) * math.exp((self.at - now) / MEMORY_S)


@dataclass(slots=True)
class Promises:
    """
    Attributes:
        targets: by model. Nothing is refused by a model without any.
        returns: requests that were refused, by model. overheads: of calls, by model.
        router: this one's name.
    """

    targets: Mapping[str, Targets] = field(default_factory=dict)
    returns: dict[str, Returns] = field(default_factory=dict)
    overheads: dict[str, Overhead] = field(default_factory=dict)
    router: str = field(default_factory=lambda: secrets.token_hex(4))

    def of(self, model: str) -> Targets | None:
        """The promise for a model; for `model@variant` that of the model."""
        return self.targets.get(model) or self.targets.get(model.partition("@")[0])

    def refused_by(self, model: str) -> Returns:
        return self.returns.setdefault(model, Returns())

    def news(self) -> list[tuple[str, Notice]]:
        """What the other routers must know of requests that were refused, with their models. It is told once."""
        found = [(model, notice) for model, returns in self.returns.items() for notice in returns.news]
        for returns in self.returns.values():
            returns.news.clear()
        return found

    def heard(self, news: Sequence[tuple[str, Notice]]) -> None:
        """The same, from another router."""
        now = time.monotonic()
        for model, notice in news:
            self.refused_by(model).heard(notice, now)

    def overhead(self, model: str) -> Overhead:
        return self.overheads.setdefault(model, Overhead())

    def terms(self, model: str, asker: Asker, stream: bool) -> Terms:
        """
        Args:
            stream: the client sees the beginning of the answer before its end. Only then the beginning is promised.
        """
        promise = self.of(model)
        if promise is None:
            return Terms(asker.client, deadline_s=asker.deadline_s, patient=asker.batch)
        first_s = promise.time_to_first_token_s or promise.time_to_first_audio_s
        return Terms(
            asker.client,
            first_s=first_s if stream and first_s else math.inf,
            piece_s=promise.time_per_output_token_s if stream and promise.time_per_output_token_s else math.inf,
            whole_s=promise.duration_s or math.inf,
            deadline_s=asker.deadline_s,
            overhead_s=self.overhead(model).mostly(time.monotonic()),
            patient=asker.batch,
            router=self.router,
        )
