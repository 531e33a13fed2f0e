"""What handlers work with."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.router.dispatch import NOT_DEPLOYED, OPERATOR_S, Dispatcher, ModelState, State, not_deployed
from models.catalog import Catalog
from models.errors import InvalidRequest, ModelFailed, ModelStarting
from models.specs import ModelSpec, Task


@dataclass(frozen=True, slots=True)
class Services:
    """
    Attributes:
        deadline_s: for a whole request.
        body_limit: bytes.
    """

    catalog: Catalog
    dispatcher: Dispatcher
    deadline_s: float = 600
    body_limit: int = 8 << 20

    def state(self, model: str) -> ModelState:
        return self.dispatcher.states().get(model, NOT_DEPLOYED)

    def resolve(self, model: str, *tasks: Task) -> ModelSpec:
        """The model a request names, if it can take the request now.

        Raises:
            ModelNotFound, InvalidRequest: no such model, or not one of these tasks.
            ModelStarting, ModelFailed, ModelNotDeployed: it exists but does not run.
        """
        spec = self.catalog.resolve(model)
        if spec.task not in tasks:
            fitting = [other.id for task in tasks for other in self.catalog.of_task(task)]
            running = [other for other in fitting if other in self.dispatcher.states()] or fitting
            raise InvalidRequest(
                f"{spec.id} is a model for {spec.task}; this endpoint needs one for {' or '.join(tasks)}, "
                f"such as {running[0] if running else 'none here'}.",
                "model",
            )
        state = self.state(spec.id)
        if state.takes_requests:
            return spec
        if state.state is State.LOADING:
            raise ModelStarting(
                f"{spec.id} is starting. Try again in {state.retry_after_s:.0f} s.", "model", state.retry_after_s
            )
        if state.state is State.FAILED:
            message = f"{spec.id} could not be started. GET /readyz has the cause; its operator can help."
            raise ModelFailed(message, "model", OPERATOR_S)
        raise not_deployed(spec.id)
