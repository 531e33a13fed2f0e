"""For Locust: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --scenario smoke [--headless]`.

Locust gives processes, machines, a web page and statistics while the test runs. This package decides when requests are
sent, how they are timed and what follows from it: Locust's users wait for answers, and its percentiles are rounded.
"""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import gevent
from gevent.event import AsyncResult
from locust import LoadTestShape, User, constant, events, task
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest import clock, options
from loadtest.health import Watch
from loadtest.kind import Model
from loadtest.records import Record, as_document, of_document
from loadtest.run import Run
from loadtest.schedule import draw_schedule
from loadtest.sending import Sender
from loadtest.verdict import Exit

logger = logging.getLogger("medley.loadtest")

# A generator that waits for a core sends late. Servers on the same machine can wait for theirs.
NICE = -10
FLUSH_S = 0.5
BEGIN, RECORDS, ENDED, STOP = "medley_begin", "medley_records", "medley_ended", "medley_stop"


@events.init_command_line_parser.add_listener
def _(parser: Any) -> None:
    options.add_to(parser)


@events.init.add_listener
def _(environment: Any, runner: Any, **_: Any) -> None:
    go_first()
    if not isinstance(runner, MasterRunner):
        Worker.current = Worker(environment)
        runner.register_message(BEGIN, lambda msg, **_: Worker.current.begin.set(msg.data))
        runner.register_message(STOP, lambda **_: Worker.current.stop())
    if not isinstance(runner, WorkerRunner):
        Coordinator.current = Coordinator(environment)
        runner.register_message(RECORDS, lambda msg, **_: Coordinator.current.take(msg.data))
        runner.register_message(ENDED, lambda msg, **_: Coordinator.current.ended(msg.data))


def go_first() -> None:
    with contextlib.suppress(OSError):  # only root may
        os.nice(NICE)


class Worker:
    """What one process sends: all, or a worker's share."""

    current: "Worker"

    def __init__(self, environment: Any):
        self.environment = environment
        self.begin: AsyncResult = AsyncResult()
        self.sender: Sender | None = None
        self.outbox: list[Record] = []

    def run(self) -> None:
        message: Any = self.begin.get()
        self.begin = AsyncResult()  # for the next test, from the web page
        runner, watch = self.environment.runner, Watch()
        models = [Model(**card) for card in message["models"]]
        self.sender = Sender(draw_schedule(options.of(self.environment.parsed_options), models), self.take)
        flushing = gevent.spawn(self.flush_for_ever)
        start = clock.now() + message["start"] - clock.unix()
        self.sender.run(start, max(0, getattr(runner, "worker_index", 0)), message["workers"])
        flushing.kill()
        self.flush()
        runner.send_message(ENDED, {"cpu": watch.cpu()})

    def take(self, record: Record) -> None:
        self.outbox.append(record)
        self.environment.events.request.fire(
            request_type=record.task,
            name=f"{record.model} {record.build}".strip(),
            response_time=record.figures().get("duration_s", 0.0) * 1000,
            response_length=0,
            exception=None if record.answered or record.left else RuntimeError(record.why),
            context={},
        )

    def flush_for_ever(self) -> None:
        while True:
            gevent.sleep(FLUSH_S)
            self.flush()

    def flush(self) -> None:
        sent, self.outbox = self.outbox, []
        if sent:
            self.environment.runner.send_message(RECORDS, [as_document(record) for record in sent])

    def stop(self) -> None:
        if self.sender:
            self.sender.stopped = True


class Coordinator:
    """The test, in the process that judges it."""

    current: "Coordinator"

    def __init__(self, environment: Any):
        self.environment = environment
        self.run: Run | None = None

    @property
    def workers(self) -> int:
        runner = self.environment.runner
        return 1 if isinstance(runner, LocalRunner) else max(1, runner.worker_count)

    def tick(self) -> tuple[int, float] | None:
        """Called once a second: prepare, then wait until there is a verdict. None ends the test."""
        try:
            return self.next_step()
        except Exception:
            logger.exception("the harness failed")
            return self.end()

    def next_step(self) -> tuple[int, float] | None:
        if self.run is None:
            self.environment.process_exit_code = int(Exit.HARNESS)  # if it is stopped before there is a verdict
            self.run = Run(self.environment.parsed_options)
            if not self.run.prepare():
                return self.end()
            message = {"start": clock.unix() + 1.5, "workers": self.workers, "models": self.run.cards}
            self.run.began(message["start"], self.workers)
            gevent.spawn_later(0.5, self.environment.runner.send_message, BEGIN, message)
        elif self.run.is_over():
            self.environment.runner.send_message(STOP, None)
            self.run.conclude()
            return self.end()
        return self.workers, self.workers

    def end(self) -> None:
        self.environment.process_exit_code = int(self.run.exit if self.run else Exit.HARNESS)
        self.run = None

    def take(self, documents: list[dict[str, Any]]) -> None:
        if self.run:
            self.run.take([of_document(document) for document in documents])

    def ended(self, message: dict[str, Any]) -> None:
        if self.run:
            self.run.worker_ended(message["cpu"])


class Sending(User):
    """One in each process. It is Locust's handle on the test; it sends by the schedule and not by turns."""

    wait_time = constant(0)

    @task
    def by_schedule(self) -> None:
        Worker.current.run()
        gevent.sleep(3600)  # until the test is stopped


class Shape(LoadTestShape):
    def tick(self) -> tuple[int, float] | None:
        return Coordinator.current.tick()
