"""The router as a Serve application: the only module of the router that knows Ray.

`import_path: deployments.router.ingress:build` in serve_config.yaml.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve import Application
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ReplicaState

from deployments.router.application import create_application
from deployments.router.dispatch import ModelState, State, not_deployed, past
from deployments.router.middleware import access_log
from deployments.router.services import Services
from deployments.settings import ModelArgs, RouterArgs
from models.catalog import load_catalog
from models.errors import RateLimited, ReplicaLost

logger = logging.getLogger("ray.serve")

# gRPC for what is small and for streams, in one event loop: a third less latency than the default. Code of ours never
# blocks the loop here, which is what makes the single loop safe.
ROUTER_ENV = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
# An old replica in the middle of an upgrade is UPDATING and still serves.
TAKES_REQUESTS = (ReplicaState.RUNNING, ReplicaState.UPDATING)
REPLICA_LOST = (ActorDiedError, ActorUnavailableError)
RETRY_AFTER_FULL_QUEUE_S = 1.0
LOAD_TIME_GUESS_S = 30.0


def build(args: RouterArgs) -> Application:
    """The application of the router."""
    args = RouterArgs.model_validate(args)
    deployment = serve.deployment(
        Router,
        name="router",
        max_ongoing_requests=1000,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=900,
        ray_actor_options={"num_cpus": 0.2, "memory": 400 << 20, "runtime_env": {"env_vars": ROUTER_ENV}},
    )
    return deployment.bind(args)


@serve.ingress()
class Router:
    async def __init__(self, args: RouterArgs):
        access_log.setLevel(logging.INFO if args.access_log else logging.WARNING)
        self.dispatcher = ServeDispatcher(args.discovery_interval_s)
        await self.dispatcher.start()
        self.services = Services(
            load_catalog(), self.dispatcher, deadline_s=args.deadline_s, body_limit=int(args.body_limit_mib * (1 << 20))
        )

    async def __serve_build_asgi_app__(self):
        return create_application(self.services)


class ServeDispatcher:
    """Calls models through Serve's handles; learns what runs by asking Serve's controller in the background."""

    def __init__(self, interval_s: float):
        self.interval_s = interval_s
        self._states: dict[str, ModelState] = {}
        self._handles: dict[str, DeploymentHandle] = {}
        self._load_times: dict[str, float] = {}

    async def start(self) -> None:
        self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        await self._discover()
        self._poll = asyncio.create_task(self._keep_discovering())

    def states(self) -> Mapping[str, ModelState]:
        return self._states

    async def stream(
        self, model: str, method: str, *args: Any, deadline: float, large: bool = False
    ) -> AsyncGenerator[Any, None]:
        end = time.monotonic() + deadline
        for last_try in (False, True):
            items = self._handle(model, method, stream=True, large=large).remote(*args)
            started = finished = False
            try:
                with translated(model, deadline):
                    while True:
                        try:
                            async with asyncio.timeout(end - time.monotonic()):
                                item = await anext(items)
                        except StopAsyncIteration:
                            finished = True
                            return
                        started = True
                        yield item
            except ReplicaLost:
                if started or last_try:
                    raise
            finally:
                if not finished:
                    items.cancel()

    async def call(self, model: str, method: str, *args: Any, deadline: float, large: bool = False) -> Any:
        end = time.monotonic() + deadline
        try:
            return await self._call_once(model, method, args, end=end, deadline=deadline, large=large)
        except ReplicaLost:
            return await self._call_once(model, method, args, end=end, deadline=deadline, large=large)

    async def _call_once(
        self, model: str, method: str, args: tuple, *, end: float, deadline: float, large: bool
    ) -> Any:
        answer = self._handle(model, method, stream=False, large=large).remote(*args)
        try:
            with translated(model, deadline):
                async with asyncio.timeout(end - time.monotonic()):
                    return await answer
        finally:
            answer.cancel()  # does nothing when it is finished

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
            except RayError as error:  # the controller is restarting: what was known last still serves
                logger.warning("discovery failed, keeping the last state: %s", type(error).__name__)
            except Exception:
                logger.exception("discovery failed, keeping the last state")

    async def _discover(self) -> None:
        """Read what Serve says of every application; make a handle for each new model."""
        details = await self._controller.get_serve_instance_details.remote()
        now = time.time()
        states = {
            name: self._state(name, application, now)
            for name, application in details["applications"].items()
            if name in load_catalog() and application["status"] != ApplicationStatus.DELETING
        }
        for name in states:
            if name not in self._handles:
                # Made once and kept for ever: a handle survives upgrades, and even removal and return of its app.
                self._handles[name] = DeploymentHandle("model", name)
        self._note_load_times(states, now)
        self._states = states

    def _state(self, name: str, application: dict[str, Any], now: float) -> ModelState:
        """The state of a model, from its application as Serve's REST API describes one."""
        status = application["status"]
        since = application["last_deployed_time_s"]
        variant = variant_of(application)
        replicas = application["deployments"].get("model", {}).get("replicas", [])
        running = sum(replica["state"] in TAKES_REQUESTS for replica in replicas)
        if running:
            return ModelState(State.READY, variant, since, replicas=running)
        if status == ApplicationStatus.DEPLOY_FAILED:
            return ModelState(State.FAILED, variant, since, cause="its replicas could not be started; see the log")
        if status == ApplicationStatus.RUNNING:
            return ModelState(State.SCALED_TO_ZERO, variant, since)
        usual = self._load_times.get(name, LOAD_TIME_GUESS_S)
        return ModelState(State.LOADING, variant, since, retry_after_s=min(60.0, max(2.0, since + usual - now)))

    def _note_load_times(self, states: dict[str, ModelState], now: float) -> None:
        for name, state in states.items():
            before = self._states.get(name)
            if before and before.state is State.LOADING and state.state is State.READY and state.since:
                self._load_times[name] = now - state.since


def variant_of(application: dict[str, Any]) -> str | None:
    config = application.get("deployed_app_config") or {}
    try:
        return ModelArgs.model_validate(config.get("args")).variant_name
    except ValueError:
        return None


@contextlib.contextmanager
def translated(model: str, deadline: float):
    """Serve's errors as ours. An error of the model's own server comes through as it is."""
    try:
        yield
    except TimeoutError:
        raise past(deadline) from None
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
        logger.error("call to %s failed in Serve", model, exc_info=error)
        raise ReplicaLost(f"{model} could not be reached. Try again.", "model", 5.0) from None
