"""The router as a Serve application. Only this module of the router and the dispatcher that it makes use Ray.

`import_path: deployments.router.ingress:build` in serve_config.yaml.
"""

import asyncio
import logging

from ray import serve
from ray.serve import Application

from deployments.loopback import LOCAL_NAMES, listen_where_the_node_does, on_loopback
from deployments.ray_board import RayBoard
from deployments.ray_metering import ray_meter
from deployments.ray_notices import RayNotices
from deployments.router.application import create_application
from deployments.router.discovery import ROUTER
from deployments.router.media_store import folder_store
from deployments.router.promises import Promises
from deployments.router.record import access_log
from deployments.router.serve_dispatcher import ServeDispatcher
from deployments.router.services import Services, WaitingRoom
from deployments.router.sharing import share_turns
from deployments.router.suspects import Suspects
from deployments.settings import RouterArgs
from deployments.tracing import start_tracing
from models.catalog import load_catalog

# gRPC for small requests and for streams, in one event loop: a third less latency than the default. The single loop is
# safe because our code never blocks it. If a replica's machine vanishes, its calls fail after this many milliseconds
# without an acknowledgement (Ray's default is two minutes) and are made again.
ROUTER_ENV = {
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def build(args: RouterArgs) -> Application:
    """The application of the router."""
    args = RouterArgs.model_validate(args)
    labels = {"label_selector": args.label_selector} if args.label_selector else {}
    deployment = serve.deployment(
        Router,
        name=ROUTER,
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
        listen_where_the_node_does()
        access_log.setLevel(logging.INFO if args.access_log else logging.WARNING)
        start_tracing("medley-router")
        meter = ray_meter(args.metrics)
        self.dispatcher = ServeDispatcher(args.discovery_interval_s, RayBoard(), meter)
        await self.dispatcher.start()
        key = await self.dispatcher.key_of_digests()
        self.services = Services(
            load_catalog(),
            self.dispatcher,
            meter,
            promises_of(args),
            WaitingRoom(args.most_waiting),
            deadline_s=args.deadline_s,
            body_s=args.body_timeout_s,
            read_s=args.read_timeout_s,
            allowed_hosts=args.allowed_hosts or (LOCAL_NAMES if on_loopback() else None),
            body_limit=int(args.body_limit_mib * (1 << 20)),
            websocket_limit=int(args.websocket_limit_mib * (1 << 20)),
            websocket_idle_s=args.websocket_idle_s,
            keep_alive_s=args.keep_alive_s,
            suspects=Suspects(key),
            media=folder_store(args),
        )
        self._sharing = asyncio.create_task(
            share_turns(self.services.promises, RayNotices(), self.dispatcher.has_several_routers)
        )

    async def __serve_build_asgi_app__(self):
        return create_application(self.services)


def promises_of(args: RouterArgs) -> Promises:
    """The promises for all models of the catalog, including those that are deployed later."""
    if args.promises is None:
        return Promises()
    promises = args.profile()
    promised = [spec.id for spec in load_catalog().values() if promises.of_task(spec.task)]
    return Promises({model: promises.of_model(model) for model in promised})
