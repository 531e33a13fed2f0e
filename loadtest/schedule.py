"""From a scenario, options and what the server has, to a schedule of requests."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest import arrivals, scenario, targets
from loadtest.arrivals import Arrival
from loadtest.bounds import needed
from loadtest.client import Client
from loadtest.kind import Model, Request
from loadtest.options import Options
from loadtest.records import subject_of
from loadtest.scenario import EVERY_OTHER, Part, Scenario, WrongScenario
from loadtest.targets import Targets
from loadtest.tasks import can_be_asked, kind_of
from loadtest.verdict import CONFIDENCE

# A client waits so many times as long as the longest promise, and some seconds, before it gives up: who is late should
# be seen to be late, and by how much, and not be taken for somebody who never got an answer.
PATIENCE, MORE_S = 1.5, 5.0


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """One request of the schedule, before it is built."""

    number: int
    arrival: Arrival
    part: Part
    model: Model
    build: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """
    Attributes:
        models: which each part of the scenario asks. requests: in the order in which they are due.
        looks_at: seconds at which the sample is looked at, the last one the end of the schedule.
        counters: which must be zero.
        left_out: models that a scenario for every task cannot ask, in sentences.
    """

    scenario: Scenario
    options: Options
    models: tuple[Model, ...]
    requests: tuple[ScheduledRequest, ...]
    looks_at: tuple[float, ...]
    promised: dict[str, Targets]
    counters: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return arrivals.digest([one.arrival for one in self.requests])

    @property
    def shortest_limit_s(self) -> float:
        return min((limit for one in self.promised.values() for limit in one.limits.values()), default=1.0)

    @property
    def patience_s(self) -> float:
        """How long a client waits for the whole answer of one try, before it gives up."""
        pairs = zip(self.models, self.scenario.parts, strict=True)
        longest = max(self.promised[model.id].longest_s(part.options.get("max_tokens", 0)) for model, part in pairs)
        return max(self.scenario.drain_s, PATIENCE * longest + MORE_S)

    @property
    def drain_s(self) -> float:
        """How long after the last request is due its client may still wait. It comes back only as long as it is
        patient, and is as patient with that try again."""
        return self.patience_s * (2 if any(part.returns for part in self.scenario.parts) else 1)

    @property
    def shares(self) -> dict[str, float]:
        """By subject of the records, where the scenario asks for another share than the promise."""
        parts = zip(self.models, self.scenario.parts, strict=True)
        return {subject_of(model.id, part.tenant): part.good for model, part in parts if part.good is not None}

    def build(self, scheduled: ScheduledRequest) -> Request:
        """A request to send: the same for the same seed and number, whichever process sends it."""
        draw = random.Random(f"{self.options.seed} {scheduled.number}")
        kind = kind_of(scheduled.model.task)
        return kind.request(draw, scheduled.arrival, scheduled.model, dict(scheduled.part.options))

    def unprovable(self) -> list[str]:
        """The promises that this schedule is too short to prove, in sentences."""
        attempts = Counter(subject_of(one.model.id, one.part.tenant) for one in self.requests)
        promised = {
            subject_of(model.id, part.tenant): self.promised[model.id]
            for model, part in zip(self.models, self.scenario.parts, strict=True)
        }
        found = []
        for name, promise in promised.items():
            share = self.shares.get(name, promise.good)
            if share and attempts[name] < (least := needed(share, CONFIDENCE)):
                found.append(
                    f"{name}: {attempts[name]} attempts cannot prove a share of {share:.1%}, for which it takes {least}"
                )
        return found


def draw_schedule(options: Options, cards: Sequence[Model]) -> Schedule:
    """The same for the same options and cards, in every process of a test.

    Args:
        cards: the models that the server has ready.

    Raises:
        WrongScenario, WrongTargets, ValueError: what is asked for cannot be.
    """
    loaded = scenario.load(options.scenario)
    chosen = with_every_task(loaded, cards)
    models = tuple(model_for(part, cards, options.models) for part in chosen.parts)
    promises = targets.promises(options.slo, options.promises)
    promised = {model.id: promises.of(model.task, model.id) for model in models}
    if options.trace:
        times = arrivals.of_trace(options.trace, options.speed, options.most, options.skip)
        looks_at = (times[-1].at,)
    else:
        times = chosen.arrivals(options.seed, options.rate, options.seconds)
        once = options.seconds or chosen.seconds
        looks_at = tuple(once * 2**look for look in range(chosen.looks))
    draw = random.Random(f"{options.seed} parts")
    shares = [part.share for part in chosen.parts]
    requests = []
    for number, arrival in enumerate(times):
        (part,) = draw.choices(range(len(chosen.parts)), shares)
        build = draw.choice("AB") if options.against else ""
        requests.append(ScheduledRequest(number, arrival, chosen.parts[part], models[part], build))
    counters = promises.never if chosen.counters is None else chosen.counters
    for_every_task = any(part.task == EVERY_OTHER for part in loaded.parts)
    left_out = tuple(not_tested(card) for card in cards if for_every_task and not can_be_asked(card))
    return Schedule(chosen, options, models, tuple(requests), looks_at, promised, counters, left_out)


def with_every_task(chosen: Scenario, cards: Sequence[Model]) -> Scenario:
    """The scenario with a part for each task that the server has and no part names, in place of its `*`.

    Raises:
        WrongScenario: nothing is left to ask.
    """
    named = {part.task for part in chosen.parts}
    others = sorted({card.task for card in cards if can_be_asked(card)} - named)
    parts: list[Part] = []
    for part in chosen.parts:
        of_part = others if part.task == EVERY_OTHER else [part.task]
        parts += [part.model_copy(update={"task": task}) for task in of_part]
    if not parts:
        raise WrongScenario("The server has no model that could be asked.")
    return chosen.model_copy(update={"parts": tuple(parts)})


def model_for(part: Part, cards: Sequence[Model], wanted: Sequence[str]) -> Model:
    """The model that a part asks: its own, or one of `wanted` of its task, or the first of its task.

    Raises:
        WrongScenario: there is none, or none that can be asked.
    """
    of_task = [card for card in cards if card.task == part.task]
    if part.model:
        found = [card for card in of_task if card.id == part.model]
    else:
        found = [card for card in of_task if card.id in wanted] or of_task
    if not found:
        name = part.model or f"model for {part.task}"
        raise WrongScenario(f"The server has no {name} ready. It has {', '.join(card.id for card in cards) or 'none'}.")
    askable = [card for card in found if can_be_asked(card)]
    if not askable:
        raise WrongScenario(" ".join(map(not_tested, found)))
    return askable[0]


def not_tested(model: Model) -> str:
    return f"{model.id} is not load tested: /v1/models gives no example of a request for its task, {model.task}."


def models_of(client: Client) -> list[Model]:
    """What the server has ready, or asleep until it is asked.

    Raises:
        OSError, ValueError: it is not there or does not answer as it should.
    """
    cards = client.get("/v1/models")["data"]
    up = [card for card in cards if card.get("state", "ready") in ("ready", "scaled_to_zero")]
    return [Model(card["id"], card.get("task", "chat"), card) for card in up]
