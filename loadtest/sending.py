"""Sends one process's share of a schedule: each request when it is due, whatever became of those before it."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.pool import Group

from loadtest import clock
from loadtest.arrivals import share
from loadtest.client import Client
from loadtest.kind import Request
from loadtest.records import Record
from loadtest.scenario import Part
from loadtest.schedule import Schedule, ScheduledRequest
from loadtest.tasks import kind_of

# With so many answers outstanding in one process the server is lost. What falls due then is not sent.
MOST_OUTSTANDING = 3000
# Requests are built this long before they are due: building one takes milliseconds, and must not make it late.
AHEAD_S = 0.05


class Sender:
    """
    Args:
        told: called with each record when its request has ended.
    """

    def __init__(self, schedule: Schedule, told: Callable[[Record], None]):
        self.schedule = schedule
        self.told = told
        self.stopped = False
        self.outstanding = 0
        options = schedule.options
        addresses = {"": options.address}
        if options.against:
            addresses |= {"A": options.address, "B": options.against}
        self.clients = {
            (build, tenant): Client(address, schedule.patience_s, options.headers | key_of(schedule, tenant))
            for build, address in addresses.items()
            for tenant in {part.tenant for part in schedule.scenario.parts}
        }

    def run(self, start: float, worker: int, workers: int) -> None:
        """Send every `workers`th request from the `worker`th, then wait for the answers, and for those who come back.

        Args:
            start: of the schedule, of clock.now.
        """
        under_way = Group()
        for scheduled in share(self.schedule.requests, worker, workers):
            until(start + scheduled.arrival.at - AHEAD_S)
            if self.stopped:
                break
            record = unsent(self.schedule, scheduled)
            if self.outstanding >= MOST_OUTSTANDING:
                self.told(record)
                continue
            request = self.schedule.build(scheduled)
            until(start + scheduled.arrival.at)
            under_way.spawn(self.send, scheduled, request, record, start)
        under_way.join(timeout=self.schedule.drain_s + 5)
        under_way.kill()
        self.close()

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def send(self, scheduled: ScheduledRequest, request: Request, record: Record, start: float) -> None:
        """Send it, and again after each refusal, as often as the scenario says."""
        self.try_once(scheduled, request, record, start)
        patience_s = self.schedule.patience_s
        while (wait_s := comes_back_after(scheduled.part, record, clock.now() - start, patience_s)) is not None:
            gevent.sleep(wait_s)
            if self.stopped:
                break
            record = next_try(self.schedule, scheduled, record)
            self.try_once(scheduled, request, record, start)
        self.told(record)

    def try_once(self, scheduled: ScheduledRequest, request: Request, record: Record, start: float) -> None:
        self.outstanding += 1
        client = self.clients[scheduled.build, scheduled.part.tenant]
        client.send(kind_of(scheduled.model.task), request, record, start)
        self.outstanding -= 1


def comes_back_after(part: Part, record: Record, now: float, patience_s: float) -> float | None:
    """In how many seconds the client of a refused request sends it again, if it was told when and has the patience."""
    if not record.refused or record.retry_after is None or record.returned >= part.returns:
        return None
    waited_s = now + record.retry_after - (record.sent or 0.0)
    return record.retry_after if waited_s <= patience_s else None


def next_try(schedule: Schedule, scheduled: ScheduledRequest, refused: Record) -> Record:
    """A record for the same request, sent again. Its id says so, because each try has a line in the server's log."""
    record = unsent(schedule, scheduled)
    record.sent, record.returned = refused.sent, refused.returned + 1
    record.id = f"{refused.id.partition('.')[0]}.{record.returned}"
    return record


def unsent(schedule: Schedule, scheduled: ScheduledRequest) -> Record:
    """What is known of a request before it is sent."""
    return Record(
        number=scheduled.number,
        id="",
        task=scheduled.model.task,
        model=scheduled.model.id,
        scenario=schedule.scenario.name,
        build=scheduled.build,
        tenant=scheduled.part.tenant,
        due=scheduled.arrival.at,
    )


def key_of(schedule: Schedule, tenant: str) -> dict[str, str]:
    key = schedule.options.keys.get(tenant)
    return {"Authorization": f"Bearer {key}"} if key else {}


def until(moment: float) -> None:
    """Let others run until then."""
    gevent.sleep(max(0.0, moment - clock.now()))
