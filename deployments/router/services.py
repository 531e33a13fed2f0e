"""The services that handlers use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from deployments.metering import Meter, NoMeter
from deployments.router.addressing import application_of, applications_of
from deployments.router.dispatch import NOT_DEPLOYED, OPERATOR_S, Dispatcher, ModelState, State, not_deployed
from deployments.router.media_store import MediaStore
from deployments.router.promises import Promises
from deployments.router.reach import Reach, reach
from deployments.router.suspects import Suspects
from models.catalog import Catalog
from models.errors import InvalidRequest, ModelDraining, ModelFailed, ModelStarting, ServingError
from models.specs import ModelSpec
from models.tasks.task import Task


class WaitingRoom:
    """Counts the requests that wait for models to start, and limits them."""

    def __init__(self, most: int):
        self.most = most
        self.inside = 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Raises ModelStarting if too many are waiting already."""
        if self.inside >= self.most:
            raise ModelStarting(
                f"{self.inside} requests wait for models to start already. Try again in 10 s.", "model", 10.0
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


@dataclass(frozen=True, slots=True)
class Services:
    """
    Attributes:
        promises: by which replicas admit requests; by default, none, and all are admitted.
        deadline_s: the limit for a whole request.
        body_limit: bytes of a body, or of one message on a WebSocket.
        websocket_limit: bytes of all messages that a client sends on one WebSocket.
        websocket_idle_s: seconds without a message in either direction after which a WebSocket is closed.
        body_s: seconds for a client to send its body, and one more for each 16 KiB that have come.
        read_s: seconds for a client to read a piece of its answer.
        allowed_hosts: the names that requests may be for; None allows every name. See middleware.Hosts.
        keep_alive_s: seconds of silence after which a stream sends a comment.
        suspects: requests that replicas worked on when they died.
        media: keeps files that are answered as links; None if links are off.
    """

    catalog: Catalog
    dispatcher: Dispatcher
    meter: Meter = field(default_factory=NoMeter)
    promises: Promises = field(default_factory=Promises)
    waiting: WaitingRoom = field(default_factory=lambda: WaitingRoom(200))
    deadline_s: float = 600
    body_limit: int = 8 << 20
    websocket_limit: int = 64 << 20
    websocket_idle_s: float = 60
    body_s: float = 20
    read_s: float = 60
    allowed_hosts: tuple[str, ...] | None = None
    keep_alive_s: float = 10
    suspects: Suspects = field(default_factory=Suspects)
    media: MediaStore | None = None

    def state(self, model: str) -> ModelState:
        return self.dispatcher.states().get(model, NOT_DEPLOYED)

    def reach(self, model: str) -> Reach | None:
        """Up to which size a model keeps its promise alone, in the variant that runs. None if that is not known, or
        nothing is promised."""
        state = self.state(model)
        return reach(state.paces.get(state.variant or ""), self.promises.of(model))

    def document(self, model: str) -> dict[str, Any]:
        """What is told of a model's state."""
        found = self.reach(model)
        return self.state(model).document() | ({"reach": found.document()} if found else {})

    def resolve(self, model: str, *tasks: Task[Any]) -> ModelSpec:
        """The model that a request names, in whatever state; see `addressed`.

        Raises:
            ModelNotFound, InvalidRequest: there is no such model, or it is not for these tasks.
        """
        spec = self.addressed(model)
        if spec.task in tasks:
            return spec
        fitting = [other.id for task in tasks for other in self._here(task)]
        fitting += [other.id for task in tasks for other in self.catalog.of_task(task)]
        raise InvalidRequest(
            f"{spec.id} is a model for {spec.task}; this endpoint needs one for {' or '.join(map(str, tasks))}, "
            f"such as {fitting[0] if fitting else 'none here'}.",
            "model",
        )

    def asked_for(self, model: str | None, *tasks: Task[Any]) -> ModelSpec:
        """The model for a request to an endpoint of these tasks: the named one, or one of the first task.

        Raises:
            ModelNotFound, InvalidRequest: see `resolve` and `choose`.
        """
        return self.resolve(model, *tasks) if model else self.choose(tasks[0])

    def addressed(self, model: str) -> ModelSpec:
        """The model with the id of the application that serves it, or with the given name if none does.

        Raises:
            ModelNotFound: the catalog does not have it.
        """
        spec = self.catalog.resolve(model)
        return self.catalog[application_of(spec, self.dispatcher.states()) or spec.id]

    def choose(self, task: Task[Any]) -> ModelSpec:
        """The model for a request that names none: the only one of the task on this cluster, or the first ready one.
        Of two variants, the one under the model's plain name.

        Raises:
            InvalidRequest: there is none, or there are several and none is ready.
        """
        states = self.dispatcher.states()
        here = self._here(task)
        ready = [spec for spec in here if states[spec.id].state is State.READY]
        if len(here) == 1 or ready:
            return (ready or here)[0]
        names = ", ".join(spec.id for spec in here or self.catalog.of_task(task)) or "none"
        where = "ready on this cluster" if here else "on this cluster"
        raise InvalidRequest(f"No model for {task} is {where}. Name one of: {names}.", "model")

    def _here(self, task: Task[Any]) -> list[ModelSpec]:
        """The deployed models of a task, in the catalog's order, `model` before `model@variant`."""
        states = self.dispatcher.states()
        names = [name for spec in self.catalog.of_task(task) for name in sorted(applications_of(spec, states))]
        return [self.catalog[name] for name in names]

    def refusal(self, model: str, state: ModelState) -> ServingError:
        """The error for a request to a model that takes none now."""
        match state.state:
            case State.LOADING | State.SCALED_TO_ZERO:
                return ModelStarting(
                    f"{model} is starting. Try again in {state.retry_after_s:.0f} s, or send the header "
                    "`Prefer: wait=SECONDS` to wait for it.",
                    "model",
                    state.retry_after_s,
                )
            case State.FAILED:
                message = f"{model} could not be started. GET /readyz has the cause; its operator can help."
                return ModelFailed(message, "model", OPERATOR_S)
            case State.DRAINING:
                message = f"{model} is being taken off this cluster. GET /v1/models lists the others."
                return ModelDraining(message, "model", OPERATOR_S)
            case _:
                return not_deployed(model, self._other_variants(model))

    def _other_variants(self, model: str) -> list[str]:
        """The names of other variants that are served, if the requested one is not."""
        states = self.dispatcher.states()
        apps = sorted(applications_of(self.catalog[model], states))
        variants = [f"{app}@{states[app].variant}" if states[app].variant and "@" not in app else app for app in apps]
        return list(dict.fromkeys(variants))
