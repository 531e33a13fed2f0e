"""The base of all model servers: starts the replica, answers calls and reports its health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from ray import serve

from deployments.board import Board
from deployments.failures import in_the_log
from deployments.loopback import listen_where_the_node_does
from deployments.metering import Meter
from deployments.ray_board import RayBoard
from deployments.ray_metering import ray_meter
from deployments.servers.admission import Admission, Job
from deployments.servers.calls import (
    CONTEXT,
    Answer,
    Begun,
    Call,
    CallContext,
    CallLog,
    Died,
    Ended,
    Estimate,
    Refused,
    Terms,
)
from deployments.servers.cold_start import ColdStart
from deployments.servers.forecast import InTurn, Schedule
from deployments.servers.pace import Pace, Work
from deployments.servers.telling import Telling
from deployments.servers.threads import engine_thread, run_in
from deployments.settings import ModelArgs
from deployments.telemetry import BATCH_SIZE
from deployments.tracing import start_tracing
from models import weights
from models.errors import BeyondPromise, EngineFailed, ServingError, UnsupportedParameter
from models.registry import engine_class
from models.tasks.methods import Ask, Duplex, Q, Unary, handlers_of
from models.tasks.task import Task
from models.tasks.usage import NOTHING, Usage

logger = logging.getLogger("ray.serve")

# Seconds from the death of the engine to the end of its process, for answers that are on their way.
GOODBYE_S = 0.2

# The request that the current asyncio task works on, for handlers that tell how far it is.
JOB: ContextVar[Job | None] = ContextVar("job", default=None)

# How often processes of an engine are looked at, and how long one may be stopped.
WORKERS_LOOK_S, WORKERS_STOPPED_S = 2.0, 6.0


class EngineServer:
    """A replica with one engine. Subclasses handle the methods of a task."""

    engine: Any
    calls: CallLog
    handlers: dict[str, str]
    leaving = False

    # Whether the engine has its own worker processes, which it places on the replica's GPUs.
    places_workers = False

    def __init_subclass__(cls) -> None:
        cls.handlers = handlers_of(cls)

    @classmethod
    def check(cls, task: Task[Any]) -> None:
        """Raises TypeError if a method of the task has no handler."""
        for method in task.methods:
            if method.name not in cls.handlers:
                raise TypeError(f"{cls.__module__} has no function that handles {method} of {task}. Mark it @handles.")

    async def __init__(self, args: ModelArgs):
        listen_where_the_node_does()
        replica, board = serve.get_replica_context().replica_id.unique_id, RayBoard()
        await self.start(args, replica, board, ray_meter(args.metrics))
        self.telling = asyncio.create_task(Telling(args, replica, board, self.admission, self.sizes()).run())

    async def start(self, args: ModelArgs, replica: str, board: Board, meter: Meter) -> None:
        """Load the engine and warm it up: the part of a start that does not need Ray.

        Args:
            replica: Serve's id of this replica.
            board: receives the progress of the start.
        """
        self.args = args
        self.replica = replica
        self.spec = args.spec
        self.variant = args.variant_spec
        self.meter = meter
        self.calls = CallLog(self.spec, self.variant, meter, args.access_log)
        self.cold_start = ColdStart(args, replica, board)
        with self.cold_start.phase("import"):
            start_tracing("medley-model")
            engine = await asyncio.to_thread(self.import_engine)
        with self.cold_start.phase("fetch"):
            tell = (logger.info, self.cold_start.fraction)
            folder = await asyncio.to_thread(weights.fetch, self.spec, self.variant, *tell)
        with self.cold_start.phase("load"):
            self.engine = await self.load_or_find_damage(engine, folder)
        with self.cold_start.phase("warm_up"):
            await self.prepare()
            self.admission = Admission(Pace(), self.schedule())
            await self.warm_up()
        self.cold_start.ready()
        if self.places_workers:
            self.watching = asyncio.create_task(self.watch_workers())

    async def watch_workers(self) -> None:
        """Leave when a process of the engine has been stopped for some time: it may never go on, and nothing else would
        tell, for the engine waits for it."""
        workers = await asyncio.to_thread(psutil.Process().children, recursive=True)
        stopped = 0
        while not self.leaving:
            await asyncio.sleep(WORKERS_LOOK_S)
            stopped = stopped + 1 if any(map(is_stopped, workers)) else 0
            if stopped * WORKERS_LOOK_S >= WORKERS_STOPPED_S:
                self.leave()

    def import_engine(self) -> type[Any]:
        """Import the engine's class and its libraries. Blocks."""
        return engine_class(self.spec.task, self.variant.backend)

    async def load(self, engine: type[Any], folder: Path) -> Any:
        """Load the engine in a thread, so that Serve's health checks are answered meanwhile. Threads that it starts
        there inherit the priority."""
        with engine_thread("load") as thread:
            return await run_in(thread, engine.load, self.spec, self.variant, folder)

    async def load_or_find_damage(self, engine: type[Any], folder: Path) -> Any:
        """`load`. If it fails because of damaged weights, say so: libraries only complain about headers."""
        try:
            return await self.load(engine, folder)
        except Exception:
            await asyncio.to_thread(weights.verify, self.spec, self.variant)
            raise

    async def prepare(self) -> None:
        """Prepare what calls need besides the engine: for most servers nothing."""

    async def warm_up(self) -> None:
        """Answer the task's samples, so that the first real request finds everything loaded."""
        task = self.spec.task
        for ask in task.sample(task.settings_of(self.spec)):
            # Not every engine of a task can do all that its samples ask for.
            with contextlib.suppress(UnsupportedParameter):
                await self._answer_sample(ask)
        await self.measure()

    def schedule(self) -> Schedule:
        """How the engine shares its time between requests."""
        return InTurn()

    def work(self, method: str, asked: Any) -> Work:
        """What a request gives the engine to do. Raises InvalidRequest for one that it cannot do."""
        return Work(read=1.0)

    def sizes(self) -> tuple[str, list[tuple[float, Work]]]:
        """Requests of growing size, to tell up to which one a promise is kept: in which unit, and each with its
        work."""
        return "", []

    def work_of(self, method: str, asked: Any) -> Work:
        """`work`, of which any other error is the client's EngineFailed."""
        try:
            return self.work(method, asked)
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None

    async def measure(self) -> None:
        """Let the engine show its pace at a few sizes, where the samples do not: the first requests are admitted by
        it."""

    def did(
        self, seconds: float, steps: float = 1.0, width: float = 0.0, read: float = 0.0, waiting: float = 0.0
    ) -> None:
        """The engine has worked; see Admission.did."""
        self.admission.did(seconds, steps, width, read, time.monotonic(), waiting)

    async def _answer_sample(self, ask: Ask[Any, Any]) -> None:
        handler = self.handler(ask.method.name)
        if isinstance(ask.method, Unary):
            await handler(ask.request)
            return
        asked = once(ask.request) if isinstance(ask.method, Duplex) else ask.request
        async for _ in handler(asked):
            pass

    async def wake(self) -> None:
        """Does nothing. The call alone makes Serve start a model that is scaled to zero."""

    async def serve(self, context: CallContext, method: str, asked: Any) -> Answer:
        """Run a unary method.

        A ServingError is returned, not raised, because Serve would log an exception with its message.
        """
        if self.engine_died():
            return Answer(self.died(ran=False), 0.0, 0.0, NOTHING)
        call = self.calls.begin(context, method)
        try:
            with call:
                async with self.admitted(call, asked):
                    result = await self.handler(method)(asked)
                call.usage = getattr(result, "usage", NOTHING)
                return Answer(result, call.queue_s, call.engine_s, call.usage)
        except ServingError as error:
            return Answer(self.failed(error), call.queue_s, call.engine_s, NOTHING)

    async def serve_stream(self, context: CallContext, method: str, asked: Any) -> AsyncGenerator[Any, None]:
        """Run a streaming or duplex method. Yields the first item in a Begun, the others as they are, and an Ended. For
        a ServingError at any point, it yields a Refused or Died and stops."""
        if self.engine_died():
            yield self.died(ran=False)
            return
        call = self.calls.begin(context, method)
        with call:
            try:
                begun = False
                async with self.admitted(call, asked), aclosing(self.handler(method)(asked)) as items:
                    async for item in items:
                        if isinstance(item, Usage):
                            call.usage = item
                        elif begun:
                            yield item
                        else:
                            begun = True
                            call.first_item()
                            yield Begun(item, call.queue_s)
                yield Ended(call.engine_s, call.usage)
            except ServingError as error:
                call.error = error
                yield self.failed(error)  # who is refused does not wait until that is recorded

    @contextlib.asynccontextmanager
    async def admitted(self, call: Call, asked: Any) -> AsyncIterator[None]:
        """Admit a call for as long as it runs. Lookups are always admitted, and are no work.

        Raises:
            TooBusy, BeyondPromise: it would come too late, or make others late.
            InvalidRequest: the engine cannot do it.
        """
        method, terms = call.method, call.context.terms
        if method in self.calls.lookups:
            yield
            return
        # It may have waited for its place here, too.
        terms = replace(terms, waited_s=terms.waited_s + call.queue_s)
        work = self.work_of(method, asked)
        try:
            job = self.admission.enter(work, terms, time.monotonic(), self.shows(method, asked))
        except BeyondPromise:
            await self.check_size(asked)
            raise
        JOB.set(job)
        kept = False
        try:
            yield
            kept = True
        finally:
            self.admission.leave(job, time.monotonic(), kept)

    async def check_size(self, asked: Any) -> None:
        """Raises ContextLengthExceeded for a request that is beyond the promise because it is more than the model can
        hold at all."""

    def shows(self, method: str, asked: Any) -> bool:
        """Whether the handler of a method tells of each piece of an answer as it comes; see Admission.wrote."""
        return False

    async def estimate(self, method: str, asked: Any, terms: Terms) -> Estimate | Refused:
        """What would become of a request here now. Nothing is done."""
        try:
            return self.admission.estimate(self.work_of(method, asked), terms, time.monotonic())
        except ServingError as error:
            return Refused(error)

    def failed(self, error: ServingError) -> Refused | Died:
        """The end of a call that the engine did not answer."""
        return self.died(ran=True) if self.engine_died() else Refused(error)

    def died(self, ran: bool) -> Died:
        self.leave()
        return Died(self.replica, ran)

    def engine_died(self) -> bool:
        """Whether the engine can never answer again although this process lives: it has processes of its own."""
        return False

    def leave(self) -> None:
        """End this process in a moment. Serve replaces a replica that is gone at its next look, but one that says it is
        broken only at the third, and that one holds its memory meanwhile."""
        if not self.leaving:
            self.leaving = True
            logger.error("the engine of %s died; its replica ends, for Serve to start another", self.spec.id)
            asyncio.get_running_loop().call_later(GOODBYE_S, self.end_process)

    def end_process(self) -> None:
        logging.shutdown()  # writes what handlers still hold
        os._exit(1)

    def handler(self, method: str) -> Any:
        """The function that handles the method of this name."""
        return getattr(self, self.handlers[method])

    def patient(self) -> bool:
        """Whether the current call is from a batch job."""
        context = CONTEXT.get()
        return context is not None and context.terms.patient

    def note_batch(self, items: int) -> None:
        self.meter.write(BATCH_SIZE, items, self.spec.id)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Facts for the autoscaling policy, which Serve passes on; see PromisePolicy."""
        return {"service_s": self.calls.service_s, **self.admission.demanded(time.monotonic())}

    async def check_health(self) -> None:
        """Raises if the engine is broken. After three times in a row, Serve replaces the replica. One whose engine died
        leaves at the first."""
        if self.engine_died():
            self.leave()
        check = getattr(self.engine, "check_health", None)
        if check is not None:
            await check()


def is_stopped(process: psutil.Process) -> bool:
    """Whether a process is stopped; one that is gone is not."""
    with contextlib.suppress(psutil.Error):
        return process.status() == psutil.STATUS_STOPPED
    return False


async def once(request: Q) -> AsyncGenerator[Q, None]:
    """A conversation in which one thing is said."""
    yield request


def broken(spec_id: str, error: Exception) -> EngineFailed:
    """The client's error for an unexpected exception of an engine. The log gets the details."""
    logger.error("engine of %s failed: %s", spec_id, in_the_log(error))
    return EngineFailed(f"The model {spec_id} failed on this request. Try again; if it fails again, tell the operator.")
