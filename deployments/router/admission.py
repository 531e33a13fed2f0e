"""Admission control: a request that would certainly break its promise is refused at once, with a time to retry.

An overloaded server that accepts everything answers everybody too late: it does all the work, and none of it is useful.
So only as many requests are admitted as can be served in time. The limit is not configured. It follows from `slo.yaml`
and from recent requests (prediction.py), so it adapts to the model, the machine and the mix of requests.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from deployments.router.prediction import Predictor
from deployments.router.record import RequestRecord
from models.errors import TooBusy
from models.slo import Targets
from models.specs import ModelSpec
from models.tasks.task import Begins
from models.tasks.usage import COMPLETION_TOKENS, PROMPT_TOKENS

# The share of a model's capacity that batch jobs may use. The rest is for interactive requests.
BATCH_SHARE = 0.6
# Below this share of the capacity, an address may use any amount. Above it, only its fair share.
FREE_FOR_ALL = 0.75
# Seconds after its last request for which an address counts when capacity is shared.
ACTIVE_S = 10.0
SHORTEST_S, LONGEST_S = 1.0, 60.0
# RFC 9218, section 4.1: urgency from 0 to 7, 3 by default. From 5 on, a request counts as a batch job.
BATCH_URGENCY = 5
# Set by our HAProxy, in the place of any that a client sends.
ADDRESS_HEADER = "x-medley-client"
# A network of IPv6 belongs to one client, which may choose any address in it.
IPV6_NETWORK = 64


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """The parts of a request that decide on its admission.

    Attributes:
        client: with whom the request shares a place: its client's address.
        batch: from a batch job, so it can be refused first.
        deadline_s: the client's limit for the whole answer, or None.
        tokens: the limit on the answer's tokens, if the request states one.
        sequences: how many answers the model is to make at the same time.
    """

    client: str = "unknown"
    batch: bool = False
    deadline_s: float | None = None
    tokens: int | None = None
    sequences: int = 1


@dataclass(slots=True)
class ModelLoad:
    """One model's requests in flight, and predictions from earlier requests.

    Attributes:
        in_flight: the number of sequences of admitted requests that have not ended.
        of_client: the same by client.
        seen: the time of each client's last request, oldest first; kept for ACTIVE_S.
        ended: how many of them per second have ended recently.
        area: the integral of `in_flight` over time, up to the moment `changed`. The difference of two values, divided
            by the seconds between them, is the mean number in flight.
    """

    predictor: Predictor = field(default_factory=Predictor)
    in_flight: int = 0
    of_client: Counter[str] = field(default_factory=Counter)
    seen: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0
    last_end: float = 0.0
    area: float = 0.0
    changed: float = 0.0

    def change(self, now: float, by: int) -> float:
        """So many sequences begin or end. Returns the area until now."""
        self.area += self.in_flight * (now - self.changed)
        self.changed = now
        self.in_flight += by
        return self.area

    def note_end(self, now: float, sequences: int) -> None:
        if self.last_end:
            since = max(1e-4, now - self.last_end)
            keep = math.exp(-since / 5)
            self.ended = keep * self.ended + (1 - keep) * sequences / since
        self.last_end = now

    def note_client(self, client: str, now: float) -> None:
        """Forget clients that have not asked for ACTIVE_S, so that many cost neither memory nor time."""
        self.seen.pop(client, None)
        self.seen[client] = now
        while now - self.seen[oldest := next(iter(self.seen))] >= ACTIVE_S:
            del self.seen[oldest]

    def note_left(self, client: str, sequences: int) -> None:
        self.of_client[client] -= sequences
        if not self.of_client[client]:
            del self.of_client[client]

    def active(self) -> int:
        """The number of clients that share the model now."""
        return len(self.seen.keys() | self.of_client.keys())


class Admission:
    """
    Args:
        promises: by model. A model without one admits every request.
    """

    def __init__(self, promises: Mapping[str, Targets] | None = None):
        self.promises = promises or {}
        self._loads: dict[str, ModelLoad] = {}

    def load(self, model: str) -> ModelLoad:
        return self._loads.setdefault(model, ModelLoad())

    def promised(self, model: str) -> Targets | None:
        """The promise for a model; for `model@variant` that of the model."""
        return self.promises.get(model) or self.promises.get(model.partition("@")[0])

    def limit(self, model: str, replicas: int) -> float:
        """How many requests `replicas` can serve at once within the promise; infinite if that is not known. At least
        one per replica, so that a model that became faster is noticed."""
        promise, load = self.promised(model), self.load(model)
        if promise is None:
            return math.inf
        learnt = load.predictor
        first_s = promise.time_to_first_token_s or promise.time_to_first_audio_s
        lines = (
            (learnt.first_s, learnt.first_s.safe_load_for, first_s),
            (learnt.token_s, learnt.token_s.load_for, promise.time_per_output_token_s),
            (learnt.duration_s, learnt.duration_s.safe_load_for, promise.duration_s),
        )
        loads = [load_for(limit) for line, load_for, limit in lines if limit is not None and line.known]
        return replicas * max(1.0, min(loads, default=math.inf))

    @contextlib.contextmanager
    def admit(self, spec: ModelSpec, replicas: int, asked: AdmissionRequest, record: RequestRecord) -> Iterator[None]:
        """Admit a request, and learn from it.

        Raises:
            TooBusy: it would miss the promise or its own deadline.
        """
        load, now, replicas = self.load(spec.id), time.monotonic(), max(1, replicas)
        load.note_client(asked.client, now)
        self.check(spec.id, replicas, asked)
        area = load.change(now, +asked.sequences)
        load.of_client[asked.client] += asked.sequences
        before, entered = load.in_flight / replicas, time.perf_counter()
        try:
            yield
        finally:
            end = time.monotonic()
            mean = (load.change(end, -asked.sequences) - area) / max(end - now, 1e-6)
            load.note_left(asked.client, asked.sequences)
            load.note_end(end, asked.sequences)
            learn(load.predictor, record, before, max(1.0, mean) / replicas, entered)

    def check(self, model: str, replicas: int, asked: AdmissionRequest) -> None:
        """Raises TooBusy if the request cannot be admitted.

        A request for many sequences needs room for all of them, but never for more than half of what there is: it
        would not be admitted while anybody else asks.
        """
        load, limit = self.load(model), self.limit(model, replicas)
        room = limit * (BATCH_SHARE if asked.batch else 1.0)
        needed = min(asked.sequences, max(1.0, room / 2))
        if load.in_flight + needed > room and load.in_flight >= replicas:
            raise self.refusal(load, room, f"{model} serves as many requests as it can answer in time.")
        room, mine = FREE_FOR_ALL * limit, load.of_client[asked.client] + needed
        if load.in_flight + needed > room and (sharers := load.active()) > 1 and mine > max(1.0, limit / sharers):
            raise self.refusal(load, room, f"{model} is busy, and your address has its share of it already.")
        if asked.deadline_s is not None:
            whole = load.predictor.predict((load.in_flight + asked.sequences) / replicas, asked.tokens).duration_s
            if whole is not None and whole > asked.deadline_s and load.in_flight >= replicas:
                words = f"{model} would take about {whole:.3g} s, and your deadline is {asked.deadline_s:g} s."
                raise self.refusal(load, load.in_flight, words)

    def refusal(self, load: ModelLoad, room: float, why: str) -> TooBusy:
        """The error, with the seconds until enough requests have ended at the current rate."""
        ahead = max(1.0, load.in_flight + 1 - room)
        seconds = ahead / load.ended if load.ended > 0 else SHORTEST_S
        seconds = min(LONGEST_S, max(SHORTEST_S, seconds))
        return TooBusy(f"{why} Try again in {math.ceil(seconds)} s.", None, seconds)


def learn(predictor: Predictor, record: RequestRecord, load: float, mean: float, entered: float) -> None:
    """Learn from a finished request. Failed and cancelled requests teach nothing.

    Args:
        load: requests per replica when it arrived, which determine the time to its first token.
        mean: the mean load while it ran, which determines the rest.
    """
    call = record.primary
    if record.code or call is None or call.last is None or call.engine_s is None:
        return
    now = time.monotonic()
    # Of a request that gives the model more to read than usual, only what a usual one would have taken: somebody who
    # sends very long ones must not make the model seem slow for others.
    read = call.usage[PROMPT_TOKENS]
    times = predictor.read.times(read) if read else 1.0
    if read:
        predictor.read.learn(read)
    engine_s = sum(one.engine_s or 0.0 for one in record.calls if one.model == record.model)
    predictor.busy_s.learn(mean, engine_s / max(1.0, mean), now)
    last = max(one.last or 0.0 for one in record.calls)
    tokens, whole = call.usage[COMPLETION_TOKENS], last - entered
    if tokens:
        predictor.tokens.learn(load, tokens, now)
    begins = call.task.begins if record.stream else None
    if call.first is not None and (begins is Begins.AUDIO or (begins is Begins.TOKENS and tokens)):
        predictor.first_s.learn(load, (call.first - entered) / times, now)
        if tokens > 1:
            predictor.token_s.learn(mean, (call.last - call.first) / (tokens - 1), now)
        if begins is Begins.TOKENS:  # their duration follows from the number of tokens
            return
    predictor.duration_s.learn(mean, whole / times, now)
    # An answer that is not streamed does not show its first token. For a short one, the duration is mostly that.
    if tokens > 1 and predictor.first_s.known:
        predictor.token_s.learn(mean, max(0.0, whole - predictor.first_s.at(load)) / (tokens - 1), now)


def address_of(request: HTTPConnection) -> str:
    """The address of a request's client; of IPv6, its network. "unknown" if nothing tells it.

    A client may send any header, so ADDRESS_HEADER counts only if it comes from a process of this machine.
    """
    peer = _address(request.client.host if request.client else None)
    if peer is not None and peer.is_loopback:
        peer = _address(next(reversed(request.headers.getlist(ADDRESS_HEADER)), None)) or peer
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((peer, IPV6_NETWORK), strict=False))
    return str(peer or "unknown")


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def is_batch(priority: str | None) -> bool:
    """Whether the header says `Priority: u=5` or more. Invalid values are ignored, as RFC 9218 requires."""
    for part in (priority or "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and value.isascii() and value.isdigit():  # "³" is a digit, too, but no number
            return int(value[:2]) >= BATCH_URGENCY
    return False
