"""The router as a Serve application: the only module of the router that uses Ray.

`import_path: deployments.router.ingress:build` in serve_config.yaml.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve import Application
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.board import Board
from deployments.failures import in_the_log
from deployments.mailbox import conversed
from deployments.metering import Meter
from deployments.ray_board import RayBoard
from deployments.ray_mailbox import RayMailbox
from deployments.ray_metering import ray_meter
from deployments.router.admission import Admission
from deployments.router.application import create_application
from deployments.router.discovery import Facts, cold_start, model_states, scheduling_s, stale
from deployments.router.dispatch import Deadline, ModelState, State, items_of, not_deployed, result_of
from deployments.router.media_store import folder_store
from deployments.router.record import Call, RequestRecord, access_log
from deployments.router.services import Services, WaitingRoom
from deployments.servers.calls import Answer
from deployments.settings import RouterArgs
from deployments.telemetry import COLD_START, IN_FLIGHT, REPLICAS, STATE
from deployments.tracing import start_tracing
from models.catalog import load_catalog
from models.errors import RateLimited, ReplicaLost
from models.specs import ModelSpec
from models.tasks.methods import A, Duplex, Method, Q, Stream, Unary

logger = logging.getLogger("ray.serve")

# gRPC for small requests and for streams, in one event loop: a third less latency than the default. The single loop is
# safe because our code never blocks it. If a replica's machine vanishes, its calls fail after this many milliseconds
# without an acknowledgement (Ray's default is two minutes) and are made again.
ROUTER_ENV = {
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
REPLICA_LOST = (ActorDiedError, ActorUnavailableError)
RETRY_AFTER_FULL_QUEUE_S = 1.0
# If a model is still not up after this long, the next request wakes it again.
LONGEST_WAKE_S = 600.0


def build(args: RouterArgs) -> Application:
    """The application of the router."""
    args = RouterArgs.model_validate(args)
    labels = {"label_selector": args.label_selector} if args.label_selector else {}
    deployment = serve.deployment(
        Router,
        name="router",
        max_ongoing_requests=1000,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=900,
        ray_actor_options={
            "num_cpus": 0.2,
            "memory": 400 << 20,
            "runtime_env": {"env_vars": ROUTER_ENV},
            **labels,
        },
    )
    return deployment.bind(args)  # pyright: ignore[reportFunctionMemberAccess]


@serve.ingress()
class Router:
    async def __init__(self, args: RouterArgs):
        access_log.setLevel(logging.INFO if args.access_log else logging.WARNING)
        start_tracing("medley-router")
        meter = ray_meter(args.metrics)
        self.dispatcher = ServeDispatcher(args.discovery_interval_s, RayBoard(), meter)
        await self.dispatcher.start()
        self.services = Services(
            load_catalog(),
            self.dispatcher,
            meter,
            admission_of(args),
            WaitingRoom(args.most_waiting),
            deadline_s=args.deadline_s,
            body_s=args.body_timeout_s,
            read_s=args.read_timeout_s,
            allowed_hosts=args.allowed_hosts,
            body_limit=int(args.body_limit_mib * (1 << 20)),
            websocket_limit=int(args.websocket_limit_mib * (1 << 20)),
            websocket_idle_s=args.websocket_idle_s,
            keep_alive_s=args.keep_alive_s,
            media=folder_store(args),
        )

    async def __serve_build_asgi_app__(self):
        return create_application(self.services)


def admission_of(args: RouterArgs) -> Admission:
    """Admission by the promises for all models of the catalog, including those that are deployed later."""
    if args.promises is None:
        return Admission()
    promises = args.profile()
    promised = [spec.id for spec in load_catalog().values() if promises.of_task(spec.task)]
    return Admission({model: promises.of_model(model) for model in promised})


class ServeDispatcher:
    """Calls models through Serve's handles. Polls Serve's controller in the background to learn what runs."""

    def __init__(self, interval_s: float, board: Board, meter: Meter):
        self.interval_s = interval_s
        self.board = board
        self.meter = meter
        self._states: dict[str, ModelState] = {}
        self._handles: dict[str, DeploymentHandle] = {}
        self._in_flight: Counter[str] = Counter()
        self._wakes: dict[str, asyncio.Task[None]] = {}
        self._mailbox: RayMailbox | None = None  # made for the first conversation

    async def start(self) -> None:
        self._controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        await self._discover()
        self._poll = asyncio.create_task(self._keep_discovering())

    def states(self) -> Mapping[str, ModelState]:
        return self._states

    def wake(self, model: str) -> None:
        if model not in self._wakes:
            self._wakes[model] = task = asyncio.create_task(self._wake(model))
            task.add_done_callback(lambda _: self._wakes.pop(model, None))

    async def _wake(self, model: str) -> None:
        # Serve's autoscaler reacts to calls that wait for a replica.
        answer = self._handle(model, "wake", stream=False, large=False).remote()
        try:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):
                async with asyncio.timeout(LONGEST_WAKE_S):
                    await answer
        finally:
            answer.cancel()

    async def call(
        self, spec: ModelSpec, method: Unary[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> A:
        try:
            return await self._call_once(spec, method, asked, deadline, record)
        except ReplicaLost:
            return await self._call_once(spec, method, asked, deadline, record)

    async def _call_once(
        self, spec: ModelSpec, method: Unary[Q, A], asked: Q, deadline: Deadline, record: RequestRecord
    ) -> A:
        handle = self._handle(spec.id, "serve", stream=False, large=method.large(asked))
        with self._under_way(spec, method, record) as call, translated(spec.id, deadline):
            response = handle.remote(call.context(), method.name, asked)
            try:
                async with asyncio.timeout(deadline.left()):
                    answer: Answer = await response
            finally:
                response.cancel()  # no effect on a finished call
            self._note_that_it_answers(spec.id)
            return result_of(answer, call)

    def stream(
        self, spec: ModelSpec, method: Stream[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> AsyncGenerator[A, None]:
        return self._stream(spec, method, asked, tries=2, large=method.large(asked), deadline=deadline, record=record)

    async def converse(
        self,
        spec: ModelSpec,
        method: Duplex[Q, A],
        incoming: AsyncIterator[Q],
        *,
        deadline: Deadline,
        record: RequestRecord,
    ) -> AsyncGenerator[A, None]:
        if self._mailbox is None:
            self._mailbox = RayMailbox()
        with translated(spec.id, deadline):
            call = partial(self._stream, spec, method, tries=1, large=False, deadline=deadline, record=record)
            async with aclosing(conversed(self._mailbox, incoming, call)) as items:
                async for item in items:
                    yield item

    async def _stream(
        self,
        spec: ModelSpec,
        method: Method[Any, A],
        asked: Any,
        *,
        tries: int,
        large: bool,
        deadline: Deadline,
        record: RequestRecord,
    ) -> AsyncGenerator[A, None]:
        for left in reversed(range(tries)):
            handle = self._handle(spec.id, "serve_stream", stream=True, large=large)
            begun = ended = False
            try:
                with self._under_way(spec, method, record) as call, translated(spec.id, deadline):
                    replies: Any = handle.remote(call.context(), method.name, asked)
                    try:
                        async with aclosing(items_of(replies, call, deadline)) as items:
                            async for item in items:
                                if not begun:
                                    begun = True
                                    self._note_that_it_answers(spec.id)
                                yield item
                        ended = True
                        return
                    finally:
                        if not ended:
                            replies.cancel()
            except ReplicaLost:
                if begun or not left:
                    raise

    @contextlib.contextmanager
    def _under_way(self, spec: ModelSpec, method: Method[Any, Any], record: RequestRecord) -> Iterator[Call]:
        """Record a call in the request's record, and count it as running."""
        state = self._states.get(spec.id)
        self._in_flight[spec.id] += 1
        try:
            with record.call(spec, method.name, state.variant if state else None) as call:
                yield call
        finally:
            self._in_flight[spec.id] -= 1

    def _note_that_it_answers(self, model: str) -> None:
        """Mark a model that just answered as ready, because the controller's state may be a second old."""
        state = self._states.get(model)
        if state is not None and state.state is State.LOADING:
            self._states[model] = replace(state, state=State.READY, replicas=1, phase=None, fraction=None)

    def _handle(self, model: str, method: str, stream: bool, large: bool) -> DeploymentHandle:
        handle = self._handles.get(model)
        if handle is None:
            raise not_deployed(model)
        return handle.options(method_name=method, stream=stream, _by_reference=large, response_serialization="pickle")

    async def _keep_discovering(self) -> None:
        while True:
            await asyncio.sleep(self.interval_s)
            try:
                await self._discover()
            except RayError as error:  # the controller is restarting; keep using the last known state
                logger.warning("discovery failed, keeping the last state: %s", type(error).__name__)
            except Exception:
                logger.exception("discovery failed, keeping the last state")

    async def _discover(self) -> None:
        """Read the status of every application from Serve, and make a handle for each new model."""
        details = await self._controller.get_serve_instance_details.remote()
        facts = await asyncio.to_thread(self.board.all)
        applications = details["applications"]
        states = model_states(applications, load_catalog(), self._states, facts, time.time())
        for name in states:
            if name not in self._handles:
                # Made once and kept: a handle survives upgrades, and even the removal and return of its application.
                self._handles[name] = DeploymentHandle("model", name)
        self._states = states
        self._write_gauges(applications, facts)
        for key in stale(applications, facts):
            self.board.remove(key)

    def _write_gauges(self, applications: Mapping[str, Any], facts: Facts) -> None:
        for name, state in self._states.items():
            for one in State:
                if one is not State.NOT_DEPLOYED:
                    self.meter.write(STATE, float(one is state.state), name, one)
            self.meter.write(REPLICAS, state.replicas, name)
            self.meter.write(IN_FLIGHT, self._in_flight[name], name)
            variant = state.variant or ""
            phases = cold_start(name, variant, facts)
            if (waited := scheduling_s(name, applications[name], variant, facts)) is not None:
                phases["schedule"] = waited
            for phase, seconds in phases.items():
                self.meter.write(COLD_START, seconds, name, variant, phase)


@contextlib.contextmanager
def translated(model: str, deadline: Deadline):
    """Translates Serve's errors to ours. Errors of the model's own server pass through."""
    try:
        yield
    except TimeoutError:
        raise deadline.exceeded() from None
    except BackPressureError:
        raise RateLimited(
            f"The queue of {model} is full. Try again in a moment, or send fewer requests at a time.",
            "model",
            RETRY_AFTER_FULL_QUEUE_S,
        ) from None
    except REPLICA_LOST:
        raise ReplicaLost(f"The replica of {model} that held this request stopped. Send it again.", None, 2.0) from None
    except DeploymentUnavailableError:
        raise ReplicaLost(f"{model} is being replaced and took no request just now. Try again.", "model", 5.0) from None
    except RayServeException as error:
        logger.error("call to %s failed in Serve: %s", model, in_the_log(error))
        raise ReplicaLost(f"{model} could not be reached. Try again.", "model", 5.0) from None
