"""One process's share of a schedule: each request is sent when it is due, whatever became of those before it."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.pool import Group

from loadtest import clock
from loadtest.arrivals import share
from loadtest.client import Client
from loadtest.plan import Due, Plan
from loadtest.records import Record
from loadtest.tasks import KINDS
from loadtest.tasks.task import Request

# So many answers outstanding in one process mean that the server is lost; what is due then counts as not sent.
MOST_UNDER_WAY = 3000
# Requests are built so long before they are due: building one takes milliseconds, and must not make it late.
AHEAD_S = 0.05


class Sender:
    """
    Args:
        told: is given each record when its request has ended.
    """

    def __init__(self, plan: Plan, told: Callable[[Record], None]):
        self.plan = plan
        self.told = told
        self.stopped = False
        options, limit = plan.options, plan.scenario.drain_s
        addresses = {"": options.address}
        if options.against:
            addresses |= {"A": options.address, "B": options.against}
        self.clients = {
            (build, tenant): Client(address, limit, options.headers | key_of(plan, tenant))
            for build, address in addresses.items()
            for tenant in {part.tenant for part in plan.scenario.parts}
        }

    def run(self, start: float, worker: int, workers: int) -> None:
        """Send every `workers`th request from the `worker`th, then wait for the answers.

        Args:
            start: of the schedule, of clock.now.
        """
        under_way = Group()
        for due in share(self.plan.schedule, worker, workers):
            until(start + due.arrival.at - AHEAD_S)
            if self.stopped:
                break
            record = unsent(self.plan, due)
            if len(under_way) >= MOST_UNDER_WAY:
                self.told(record)
                continue
            request = self.plan.request(due)
            until(start + due.arrival.at)
            under_way.spawn(self.send, due, request, record, start)
        under_way.join(timeout=self.plan.scenario.drain_s + 5)
        under_way.kill()
        self.close()

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def send(self, due: Due, request: Request, record: Record, start: float) -> None:
        client = self.clients[due.build, due.part.tenant]
        client.send(KINDS[due.model.task], request, record, start)
        self.told(record)


def unsent(plan: Plan, due: Due) -> Record:
    """What is known of a request before it is sent."""
    return Record(
        number=due.number,
        id="",
        task=due.model.task,
        model=due.model.id,
        scenario=plan.scenario.name,
        build=due.build,
        tenant=due.part.tenant,
        due=due.arrival.at,
    )


def key_of(plan: Plan, tenant: str) -> dict[str, str]:
    key = plan.options.keys.get(tenant)
    return {"Authorization": f"Bearer {key}"} if key else {}


def until(moment: float) -> None:
    """Let others run until then."""
    gevent.sleep(max(0.0, moment - clock.now()))
