"""What is asked of Serve (through Ray's dashboard) and of the router over HTTP."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import httpx

from medley.checks.config import ClusterConfig
from medley.local.cluster import ClusterError

APPLICATIONS = "/api/serve/applications/"


def put(document: dict[str, Any], name: str, serve: httpx.Client) -> None:
    """Hand the whole document to Serve, as `serve deploy` does.

    Raises:
        ClusterError: Serve refused it, or did not answer for a minute.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = serve.put(APPLICATIONS, json=document)
            break
        except httpx.TransportError:  # the first document starts Serve, which takes a while; a retry does no harm
            if time.monotonic() > deadline:
                raise ClusterError("Ray's dashboard does not answer. `medley down`, then `medley up`.") from None
            time.sleep(0.2)
    if answer.is_error:
        raise ClusterError(f"Serve refused {name}: {answer.text[:2000]}")


def live(serve: httpx.Client, patience_s: float = 0) -> dict[str, Any]:
    """What is deployed and how it is.

    Raises:
        ClusterError: no cluster answers within `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return read_live(serve)
        except httpx.HTTPStatusError as error:
            why = f"Ray's dashboard answers {error.response.status_code}: {error.response.text[:300]}"
        except (httpx.TransportError, ValueError):
            why = "No cluster answers here. `medley up` starts one."
        if time.monotonic() > deadline:
            raise ClusterError(why)
        time.sleep(0.2)


def edge(wanted: ClusterConfig, answer: dict[str, Any]) -> httpx.Client:
    """A client of the router. Its address is where Serve listens; a document sets it only before Serve starts."""
    in_force = ClusterConfig(wanted.path, answer, []) if answer.get("http_options") else wanted
    return httpx.Client(base_url=in_force.address, timeout=5, trust_env=False)


@dataclass(frozen=True, slots=True)
class Readiness:
    """The router's answer to GET /readyz; not ready and no models when it does not answer."""

    ready: bool = False
    models: dict[str, dict[str, Any]] | None = None

    def of(self, app: str) -> dict[str, Any]:
        return (self.models or {}).get(app, {})


def read_live(serve: httpx.Client) -> dict[str, Any]:
    """Serve's answer: what is deployed and how it is.

    Raises:
        httpx.HTTPError: Ray's dashboard does not answer, or answers with an error.
    """
    return serve.get(APPLICATIONS).raise_for_status().json()


def read_readiness(edge: httpx.Client) -> Readiness:
    with contextlib.suppress(httpx.HTTPError, ValueError):
        answer = edge.get("/readyz")
        document = answer.json()
        models = document.get("models") if isinstance(document, dict) else None
        return Readiness(answer.is_success, models if isinstance(models, dict) else None)
    return Readiness()
