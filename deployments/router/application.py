"""The HTTP application: all routes and middleware."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from deployments.router import openapi
from deployments.router.errors import add_error_handlers
from deployments.router.middleware import Bodies, Equivalents, Hosts, RequestContext, TimeLimits
from deployments.router.routes import estimate, health, media, models, routers_of_tasks, tokens
from deployments.router.services import Services
from deployments.router.websockets import WebSockets

DESCRIPTION = """
One OpenAI-compatible endpoint in front of many open models.
Point any OpenAI client at `/v1`; `GET /v1/models` lists what is running.
"""


def create_application(services: Services) -> FastAPI:
    """The router as an ASGI application: the same in Ray Serve, in uvicorn and in tests."""
    app = FastAPIOffline(title="Medley", version="0.1.0", description=DESCRIPTION, redoc_url=None)
    app.router.redirect_slashes = False  # see Equivalents
    app.state.services = services
    for router in routers_of_tasks():
        app.include_router(router)
    for routes in (media, tokens, estimate, models, health):
        app.include_router(routes.router)
    # The last one added is the outermost: first the id and the log line, then the limits.
    app.add_middleware(Bodies, limit=services.body_limit)
    app.add_middleware(TimeLimits, deadline_s=services.deadline_s, body_s=services.body_s, read_s=services.read_s)
    app.add_middleware(Hosts, allowed=services.allowed_hosts)
    app.add_middleware(RequestContext, meter=services.meter)
    app.add_middleware(
        WebSockets,
        meter=services.meter,
        message_limit=services.body_limit,
        limit=services.websocket_limit,
        idle_s=services.websocket_idle_s,
    )
    app.add_middleware(Equivalents)
    add_error_handlers(app)
    openapi.describe(app)
    return app
