"""The Dispatcher of a cluster: it calls models through Serve's handles, and polls Serve's controller to learn what
runs."""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.board import DIGESTS, Board
from deployments.failures import in_the_log
from deployments.mailbox import conversed
from deployments.metering import Meter
from deployments.ray_mailbox import RayMailbox
from deployments.router import silence
from deployments.router.discovery import (
    Facts,
    cold_start,
    model_states,
    replicas_of,
    routers,
    scheduling_s,
    stale,
)
from deployments.router.dispatch import (
    Deadline,
    Lost,
    ModelState,
    State,
    estimate_of,
    items_of,
    lost,
    not_deployed,
    result_of,
)
from deployments.router.growth import Resources
from deployments.router.record import Call, RequestRecord
from deployments.servers.calls import Answer, Estimate, Terms
from deployments.telemetry import COLD_START, DEMAND, DISCOVERY_AGE, IN_FLIGHT, REPLICAS, STATE, UNPLACED, WANTED
from models.catalog import load_catalog
from models.errors import RateLimited, ReplicaLost, ServingError
from models.specs import ModelSpec
from models.tasks.methods import A, Ask, Duplex, Method, Q, Stream, Unary

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

REPLICA_LOST = (ActorDiedError, ActorUnavailableError)
RETRY_AFTER_FULL_QUEUE_S = 1.0
RETRY_AFTER_SILENCE_S = 10.0
# If a model is still not up after this long, the next request wakes it again.
LONGEST_WAKE_S = 600.0
# Of one look at what runs: the controller's answer and the facts of the board.
LONGEST_LOOK_S = 5.0
# How long a replica counts as lost although the controller says that it runs. After that the controller is believed:
# perhaps only the network was.
LOST_S = 15.0


class Wait:
    """What one call waits for.

    Attributes:
        silent: the wait was ended because nobody answers.
    """

    def __init__(self, model: str, response: Any, deadline: Deadline):
        self.model = model
        self.silent = False
        self._response = response
        self._deadline = deadline
        self._scope: asyncio.Timeout | None = None

    def limit(self) -> asyncio.Timeout:
        """Around each wait for the replica. Raises TimeoutError at the deadline, or when it is ended."""
        self._scope = self._deadline.limit()
        return self._scope

    def is_for(self, silent: Collection[str], actors: Collection[str]) -> bool:
        """Whether its replica is among the silent ones. Where Serve does not tell which one has it: whether all of its
        model's are."""
        result = getattr(self._response, "_replica_result", None)
        actor = getattr(result, "_actor_id", None)
        return actor.hex() in silent if actor is not None else bool(actors) and set(actors) <= set(silent)

    def end(self) -> None:
        self.silent = True
        if self._scope is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._scope.reschedule(asyncio.get_running_loop().time())


class ServeDispatcher:
    """See Dispatcher, and the module."""

    def __init__(self, interval_s: float, board: Board, meter: Meter):
        self.interval_s = interval_s
        self.board = board
        self.meter = meter
        self._states: dict[str, ModelState] = {}
        self._handles: dict[str, DeploymentHandle] = {}
        self._in_flight: Counter[str] = Counter()
        self._wakes: dict[str, asyncio.Task[None]] = {}
        self._mailbox: RayMailbox | None = None  # made for the first conversation
        self._lost: dict[str, float] = {}  # replicas or their actors, and until when they count as lost
        self._applications: Mapping[str, Any] = {}
        self._facts: Facts = {}
        self._nodes: dict[str, Resources] | None = None
        self._looked = time.monotonic()
        self._routers = 1
        # Of its own, and a single one: if Ray's store hangs, one thread does.
        self._board_thread = ThreadPoolExecutor(1, "board")
        self._waits: set[Wait] = set()
        self._silence = silence.Silence(self._ask)
        self._silent: set[str] = set()
        self._actor_names: dict[str, str] = {}  # by the ids of actors, as `_actors`
        self._actors: dict[str, Any] = {}

    async def start(self) -> None:
        self._controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        await self._discover()
        self._poll = asyncio.create_task(self._keep_discovering())
        self._listener = asyncio.create_task(self._keep_listening())

    def states(self) -> Mapping[str, ModelState]:
        return self._states

    def has_several_routers(self) -> bool:
        return self._routers > 1

    async def key_of_digests(self) -> bytes:
        """The same for all routers of a cluster, which must know one another's requests: that of the first one."""
        async with asyncio.timeout(LONGEST_LOOK_S):
            claimed = await self._on_board(self.board.claim, DIGESTS, {"key": secrets.token_hex(16)})
        return bytes.fromhex(claimed["key"])

    def age_s(self) -> float:
        return time.monotonic() - self._looked

    def wake(self, model: str) -> None:
        if model not in self._wakes:
            self._wakes[model] = task = asyncio.create_task(self._wake(model))
            task.add_done_callback(lambda _: self._wakes.pop(model, None))

    @contextlib.contextmanager
    def queued(self, model: str) -> Iterator[None]:
        waiting = asyncio.create_task(self._wake(model))
        try:
            yield
        finally:
            waiting.cancel()

    async def _wake(self, model: str) -> None:
        # Serve's autoscaler counts the calls that wait for a replica.
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
        handle = self._handle(spec.id, "serve", stream=False, large=method.large(asked))
        with self._under_way(spec, method, record) as call, self._noting_the_lost(spec.id, deadline):
            response = handle.remote(call.context(), method.name, asked)
            try:
                with self._listening(spec.id, response, deadline) as wait:
                    async with wait.limit():
                        answer: Answer = await response
            finally:
                response.cancel()  # no effect on a finished call
            self._note_that_it_answers(spec.id)
            return result_of(answer, call)

    async def estimate(self, spec: ModelSpec, ask: Ask[Any, Any], terms: Terms) -> Estimate:
        deadline = Deadline.after(LONGEST_LOOK_S)
        large = ask.method.large(ask.request)
        response = self._handle(spec.id, "estimate", stream=False, large=large).remote(
            ask.method.name, ask.request, terms
        )
        try:
            with translated(spec.id, deadline):
                async with deadline.limit():
                    return estimate_of(await response)
        finally:
            response.cancel()

    def stream(
        self, spec: ModelSpec, method: Stream[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> AsyncGenerator[A, None]:
        return self._stream(spec, method, asked, large=method.large(asked), deadline=deadline, record=record)

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
            call = partial(self._stream, spec, method, large=False, deadline=deadline, record=record)
            async with aclosing(conversed(self._mailbox, incoming, call)) as items:
                async for item in items:
                    yield item

    async def _stream(
        self,
        spec: ModelSpec,
        method: Method[Any, A],
        asked: Any,
        *,
        large: bool,
        deadline: Deadline,
        record: RequestRecord,
    ) -> AsyncGenerator[A, None]:
        handle = self._handle(spec.id, "serve_stream", stream=True, large=large)
        begun = ended = False
        with self._under_way(spec, method, record) as call, self._noting_the_lost(spec.id, deadline):
            replies: Any = handle.remote(call.context(), method.name, asked)
            try:
                with self._listening(spec.id, replies, deadline) as wait:
                    async with aclosing(items_of(replies, call, wait.limit)) as items:
                        try:
                            async for item in items:
                                if not begun:
                                    begun = True
                                    self._note_that_it_answers(spec.id)
                                yield item
                        except ServingError:  # the replica's last word: a refusal need not wait for a cancellation
                            ended = True
                            raise
                ended = True
            finally:
                if not ended:
                    replies.cancel()

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

    @contextlib.contextmanager
    def _listening(self, model: str, response: Any, deadline: Deadline) -> Iterator[Wait]:
        """Note what a call waits for, so that the wait can be ended if its replica falls silent.

        Raises:
            ReplicaLost: it did.
        """
        wait = Wait(model, response, deadline)
        self._waits.add(wait)
        try:
            yield wait
        except TimeoutError:
            if not wait.silent:
                raise
            message = f"The replica of {model} that holds this request does not answer. Send it again."
            raise ReplicaLost(message, None, RETRY_AFTER_SILENCE_S) from None
        finally:
            self._waits.discard(wait)

    async def _keep_listening(self) -> None:
        while True:
            await asyncio.sleep(silence.LOOK_S)
            try:
                self._listen()
            except Exception:
                logger.exception("asking the replicas failed")

    def _listen(self) -> None:
        """End waits for replicas that have fallen silent, and count those out until they answer."""
        busy = {wait.model for wait in self._waits}
        actors = {actor: name for model in busy for actor, name in self._actors_of(model).items()}
        self._actor_names = {**{actor: self._actor_names[actor] for actor in self._silent}, **actors}
        silent = self._silence.look({*actors, *self._silent})
        for wait in [wait for wait in self._waits if wait.is_for(silent, self._actors_of(wait.model))]:
            wait.end()
        if silent or self._silent:
            until = time.monotonic() + 2 * silence.LOOK_S
            self._lost |= dict.fromkeys(silent, until)
            for replica in self._silent - silent:
                self._lost.pop(replica, None)
            self._silent = silent
            self._states = self._read_states()

    def _actors_of(self, model: str) -> dict[str, str]:
        """Names of the actors of a model's running replicas by their ids."""
        replicas = replicas_of(self._applications.get(model, {}))
        return {one["actor_id"]: one["actor_name"] for one in replicas if one["state"] == "RUNNING"}

    async def _ask(self, replica: str) -> None:
        """Returns when a replica, by the id of its actor, has answered."""
        actor = self._actors.get(replica)
        if actor is None:
            # Ray's control plane tells it, and may hang.
            get = partial(ray.get_actor, self._actor_names[replica], namespace=SERVE_NAMESPACE)
            actor = self._actors[replica] = await self._on_board(get)
        await actor.get_num_ongoing_requests.remote()

    def _note_that_it_answers(self, model: str) -> None:
        """Mark a model that just answered as ready, because the controller's state may be a second old."""
        state = self._states.get(model)
        if state is not None and state.state is State.LOADING:
            seemed_lost = replicas_of(self._applications.get(model, {}))
            ids = {replica.get(name) for replica in seemed_lost for name in ("replica_id", "actor_id")}
            self._lost = {replica: until for replica, until in self._lost.items() if replica not in ids}
            self._states[model] = replace(
                state, state=State.READY, replicas=1, phase=None, fraction=None, restarting=False
            )

    @contextlib.contextmanager
    def _noting_the_lost(self, model: str, deadline: Deadline) -> Iterator[None]:
        """Translates errors, and counts out a replica that died: the controller finds that out only later."""
        began = time.monotonic()
        try:
            with translated(model, deadline):
                yield
        except Lost as error:
            until = self._lost.get(error.replica or "", math.inf)
            if until - LOST_S <= began:
                error.ran = False  # the replica was dead already
            elif error.replica is not None:
                self._lost.setdefault(error.replica, time.monotonic() + LOST_S)
                self._states = self._read_states()
                if (state := self._states.get(model)) is not None and state.state is State.LOADING:
                    error.retry_after = state.retry_after_s
            raise

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
            except (RayError, TimeoutError) as error:  # the controller is restarting; keep using the last known state
                logger.warning("discovery failed, keeping the last state: %s", type(error).__name__)
            except Exception:
                logger.exception("discovery failed, keeping the last state")
            self.meter.write(DISCOVERY_AGE, self.age_s())
            if any(until <= time.monotonic() for until in self._lost.values()):
                self._states = self._read_states()

    async def _discover(self) -> None:
        """Read the status of every application from Serve, and make a handle for each new model."""
        async with asyncio.timeout(LONGEST_LOOK_S):
            details = await self._controller.get_serve_instance_details.remote()
            facts = await self._on_board(self.board.all)
            self._nodes = await self._on_board(nodes)
        self._applications, self._facts, self._looked = details["applications"], facts, time.monotonic()
        # While Serve builds a new version of the router, it lists none.
        self._routers = routers(details["applications"]) or self._routers
        states = self._read_states()
        for name in states:
            if name not in self._handles:
                # Made once and kept: a handle survives upgrades, and even the removal and return of its application.
                self._handles[name] = DeploymentHandle("model", name)
        before, self._states = self._states, states
        self._connect(before)
        self._write_gauges(self._applications, facts)
        async with asyncio.timeout(LONGEST_LOOK_S):
            for key in stale(self._applications, facts):
                await self._on_board(self.board.remove, key)

    def _connect(self, before: Mapping[str, ModelState]) -> None:
        """Make the first call of a replica before anybody waits for it: it opens a connection, and takes longer than a
        refusal may."""
        for name, state in self._states.items():
            if state.state is State.READY and (name not in before or state.replicas > before[name].replicas):
                self.wake(name)

    def _read_states(self) -> dict[str, ModelState]:
        """The states from the last look, without the replicas that were lost since."""
        now = time.monotonic()
        self._lost = {replica: until for replica, until in self._lost.items() if until > now}
        return model_states(
            self._applications,
            load_catalog(),
            self._states,
            self._facts,
            time.time(),
            lost=self._lost.keys(),
            nodes=self._nodes,
        )

    async def _on_board(self, method: Callable[..., T], *args: Any) -> T:
        """Run a method of the board, which may block, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._board_thread, method, *args)

    def _write_gauges(self, applications: Mapping[str, Any], facts: Facts) -> None:
        for name, state in self._states.items():
            for one in State:
                if one is not State.NOT_DEPLOYED:
                    self.meter.write(STATE, float(one is state.state), name, one)
            self.meter.write(REPLICAS, state.replicas, name)
            self.meter.write(WANTED, state.scale.wanted, name)
            self.meter.write(UNPLACED, state.scale.unplaced, name)
            self.meter.write(DEMAND, state.scale.demand.asked if state.scale.demand else 0.0, name)
            self.meter.write(IN_FLIGHT, self._in_flight[name], name)
            variant = state.variant or ""
            phases = cold_start(name, variant, facts)
            if (waited := scheduling_s(name, applications[name], variant, facts)) is not None:
                phases["schedule"] = waited
            for phase, seconds in phases.items():
                self.meter.write(COLD_START, seconds, name, variant, phase)


def nodes() -> dict[str, Resources]:
    """What each living node has in all, by its id. Asks Ray, which may block."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


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
    except REPLICA_LOST as error:
        message = f"The replica of {model} that held this request stopped. Send it again."
        raise lost(message, error.actor_id, ran=True) from None
    except DeploymentUnavailableError:
        message = f"{model} is being replaced and took no request just now. Try again."
        raise lost(message, None, ran=False, retry_after=5.0) from None
    except RayServeException as error:
        logger.error("call to %s failed in Serve: %s", model, in_the_log(error))
        raise lost(f"{model} could not be reached. Try again.", None, ran=False, retry_after=5.0) from None
