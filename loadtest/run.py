"""One run of a load test, in the process that judges it: prepare, collect, look, conclude."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from loadtest import clock, options
from loadtest.client import Client, GaveUp
from loadtest.health import Watch, examine
from loadtest.records import Record
from loadtest.report import write_reports
from loadtest.scenario import WrongScenario
from loadtest.schedule import Schedule, ScheduledRequest, draw_schedule, models_of
from loadtest.sending import Sender, unsent
from loadtest.targets import WrongTargets
from loadtest.verdict import Exit, Outcome, Verdict, judge

logger = logging.getLogger("medley.loadtest")

# An answer that is still missing this long after its client has given up will not come: the process died.
GRACE_S = 10.0
# A first request may have to wait for a model that sleeps or is still loading.
WARM_UP_S = 300.0


class Run:
    def __init__(self, parsed: Namespace):
        self.parsed = parsed
        self.exit = Exit.HARNESS
        self.schedule: Schedule
        self.cards: list[dict[str, Any]] = []
        self.records: dict[int, Record] = {}
        self.cold: dict[str, float] = {}
        self.cpus: list[float] = []
        self.start = 0.0
        self.began_at = 0.0
        self.workers = 1
        self.look = 0
        self.verdict: Verdict | None = None

    def prepare(self) -> bool:
        """Read the options, ask the server for its models and warm them up. False ends the test, with `exit` set."""
        try:
            asked = options.of(self.parsed)
        except ValueError as error:
            return self.ended(Exit.CONFIGURATION, str(error))
        client = Client(asked.address, 30, asked.headers)
        try:
            models = models_of(client)
        except (OSError, GaveUp, ValueError, KeyError) as error:
            return self.ended(Exit.UNREACHABLE, f"{asked.address} does not answer: {error}")
        finally:
            client.close()
        try:
            self.schedule = draw_schedule(asked, models)
        except (WrongScenario, WrongTargets, ValueError) as error:
            return self.ended(Exit.CONFIGURATION, str(error))
        self.cards = [{"id": model.id, "task": model.task, "card": model.card} for model in models]
        for line in (*self.schedule.left_out, *self.schedule.unprovable()):
            logger.warning("%s", line)
        return self.warm_up()

    def warm_up(self) -> bool:
        """Ask each model before the clock starts: a first request waits for things that later ones do not."""
        patient = self.schedule.scenario.model_copy(update={"drain_s": WARM_UP_S})
        schedule = replace(self.schedule, scenario=patient)
        with closing(Sender(schedule, lambda record: None)) as sender:
            return self.warmed_up(schedule, sender)

    def warmed_up(self, schedule: Schedule, sender: Sender) -> bool:
        for part, model in self.first_of_each():
            for turn in range(schedule.scenario.warm_up):
                scheduled = ScheduledRequest(-1 - turn, schedule.requests[0].arrival, part, model, "")
                record = unsent(schedule, scheduled)
                record.due = 0.0
                sender.try_once(scheduled, schedule.build(scheduled), record, clock.now())
                if not record.answered and not record.left:
                    return self.ended(Exit.UNREACHABLE, f"{model.id} does not answer: {record.why}")
                self.cold.setdefault(model.id, record.last or 0.0)
                logger.info(
                    "%s answered its %s request in %.2f s", model.id, ("first", "next")[turn > 0], record.last or 0
                )
        return True

    def first_of_each(self) -> list[Any]:
        pairs = zip(self.schedule.scenario.parts, self.schedule.models, strict=True)
        return list({model.id: (part, model) for part, model in pairs}.values())

    def began(self, start: float, workers: int) -> None:
        """
        Args:
            start: Unix time at which the schedule starts.
        """
        self.began_at = start
        self.start = clock.now() + start - clock.unix()
        self.workers = workers
        self.watch = Watch()

    def take(self, records: Iterable[Record]) -> None:
        self.records.update((record.number, record) for record in records)

    def worker_ended(self, cpu: float) -> None:
        self.cpus.append(cpu)

    def is_over(self) -> bool:
        """Whether the sample proves something, or has grown as far as it may."""
        end = self.schedule.looks_at[self.look]
        now = clock.now() - self.start
        if now < end:
            return False
        due = self.due()
        patience = self.schedule.drain_s + GRACE_S
        if now < end + patience and any(one.number not in self.records for one in due):
            return False
        self.verdict = self.judged(due)
        if self.verdict.outcome is Outcome.INCONCLUSIVE and not self.verdict.health.ill and not self.last_look:
            logger.info("nothing is proven after %.0f s: the test goes on", end)
            self.look += 1
            return False
        return True

    def due(self) -> list[ScheduledRequest]:
        """The requests that are judged at this look."""
        end = self.schedule.looks_at[self.look]
        return [one for one in self.schedule.requests if one.arrival.at < end or self.last_look]

    @property
    def last_look(self) -> bool:
        return self.look == len(self.schedule.looks_at) - 1

    def judged(self, due: list[ScheduledRequest]) -> Verdict:
        records = self.of(due)
        cpu = max([*self.cpus, self.watch.cpu() if self.workers == 1 else 0.0])
        health = examine(records, self.schedule.shortest_limit_s, cpu, self.watch.pressure())
        chosen = self.schedule.scenario
        return judge(
            records,
            self.schedule.promised,
            health,
            looks=len(self.schedule.looks_at),
            counters=self.schedule.counters,
            shares=self.schedule.shares,
            refusals_count=chosen.refusals_count,
        )

    def of(self, due: list[ScheduledRequest]) -> list[Record]:
        """A record for each request, also for those of which nothing came back."""
        return [self.records.get(one.number) or unsent(self.schedule, one) for one in due]

    def conclude(self) -> None:
        """Write the reports, say what was found, and set `exit`."""
        assert self.verdict
        write_reports(self.schedule, self.of(self.due()), self.verdict, self.cold, self.began_at, sys.stdout)
        self.exit = self.verdict.exit

    def ended(self, code: Exit, why: str) -> bool:
        sys.stderr.write(f"{why}\n")
        self.exit = code
        return False
