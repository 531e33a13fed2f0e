"""The server of every task without one of its own: one answer per request, several requests at a time."""

from __future__ import annotations

from typing import Any

from deployments.servers.batching import Batcher
from deployments.servers.engine import JOB, EngineServer, broken
from deployments.servers.forecast import Batches, Schedule
from deployments.servers.pace import Work
from models.errors import ServingError
from models.tasks.batch import BatchEngine
from models.tasks.methods import Method, Unary
from models.tasks.task import Task


class Server(EngineServer):
    engine: BatchEngine[Any, Any]

    @classmethod
    def check(cls, task: Task[Any]) -> None:
        """Raises TypeError: the task needs a server of its own."""
        the_method(task)

    async def prepare(self) -> None:
        engine = self.engine
        self.handlers = {the_method(self.spec.task).name: "answer"}
        limits = engine.largest_batch, engine.largest_cost
        self.batcher = Batcher(engine.run, engine.cost, *limits, self.note_batch, self.did_batch)

    def schedule(self) -> Schedule:
        return Batches(self.engine.largest_batch, self.engine.largest_cost)

    def work(self, method: str, asked: Any) -> Work:
        return Work(steps=self.engine.cost(asked))

    def did_batch(self, seconds: float, cost: float) -> None:
        self.did(seconds, width=cost)

    async def answer(self, request: Any) -> Any:
        """The engine's answer.

        Raises:
            ServingError: raised by the engine; EngineFailed for any other exception.
        """
        try:
            (result,) = await self.batcher.submit([request], self.patient(), JOB.get())
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None
        return result


def the_method(task: Task[Any]) -> Method[Any, Any]:
    """The only method of a task. Raises TypeError if there are several, or if it is not unary."""
    if len(task.methods) != 1 or not isinstance(task.methods[0], Unary):
        methods = ", ".join(map(str, task.methods))
        raise TypeError(f"{task} has the methods {methods}. Only a task with one, Unary, needs no server of its own.")
    return task.methods[0]
