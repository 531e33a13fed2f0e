"""Servers of models as their replicas start them, around fake engines: in this process, without Ray and weights."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from virtual_time import VirtualLoop

from deployments.board import MemoryBoard
from deployments.metering import MemoryMeter
from deployments.servers.pace import Pace
from deployments.settings import ModelArgs
from models.catalog import load_catalog
from models.sources import NoSource
from models.specs import ModelSpec, VariantSpec
from models.tasks import images

if TYPE_CHECKING:
    from deployments.servers.chat import Server as ChatServer
    from deployments.servers.embeddings import Server as EmbeddingServer

CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "all-minilm-l6-v2"

T = TypeVar("T")


class RowArgs(ModelArgs):
    """Arguments for a model that the catalog need not have."""

    row: ModelSpec

    @property
    def spec(self) -> ModelSpec:
        return self.row


def faked(spec: ModelSpec) -> ModelSpec:
    """The model with its task's fake engine in the place of all its variants."""
    none = NoSource(kind="none")
    needs = {"cpus": 1, "memory_gib": 1}
    variant = VariantSpec.model_validate({"backend": "fake", "precision": "fp32", "needs": needs})
    changes: dict[str, Any] = {
        "source": none,
        "variants": {"fake": variant},
        "default_variant": "fake",
        "reference": None,
    }
    if spec.task is images.TASK:
        settings = images.TASK.settings_of(spec)
        parts = {"controls": dict.fromkeys(settings.controls, none), "adapters": dict.fromkeys(settings.adapters, none)}
        changes["settings"] = settings.model_copy(update={"scheduler": "fake", **parts})
    return spec.model_copy(update=changes)


async def started(
    spec: ModelSpec, server: type[T] | None = None, engine: Any = None, meter: MemoryMeter | None = None, **args: Any
) -> T:
    """A server of the model, started and warmed up; its variant is the row's default one.

    Args:
        server: its class, if not the one of the task.
        engine: has a `load`, like the classes of engines; the engine of the row's variant if left out.
        meter: is written to. args: more of ModelArgs.
    """
    from deployments.model import server_class

    variant = spec.variant(None)
    made: Any = object.__new__(server or server_class(spec.task, variant.backend))
    if engine is not None:
        made.import_engine = lambda: engine
    await made.start(RowArgs(model=spec.id, row=spec, **args), "replica", MemoryBoard(), meter or MemoryMeter())
    return made


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, where no loop runs: in fixtures and tests that are no coroutines."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(work)
        loop.run_until_complete(loop.shutdown_default_executor())
        return result
    finally:
        loop.close()


async def chat_server(engine: Any = None, model: str = CHAT, **options: Any) -> ChatServer:
    """A server of chat models.

    Args:
        engine: takes the place of the fake one after the warm-up.
    """
    from models.engines.chat_fake import Engine as FakeChat

    server: ChatServer = await started(faked(load_catalog()[model]), **options)
    fake: Any = server.engine
    if isinstance(fake, FakeChat):
        fake.tokens_made = 0  # those of the warm-up
    if engine is not None:
        server.engine = engine
    return server


def paced(server: Any, base: float = 1e-6, per_width: float = 1e-6, per_read: float = 1e-6) -> Any:
    """The server, as if it had found out long ago that a step takes so many seconds; see Pace."""
    server.admission.pace = Pace()
    for width, read in ((0, 64), (1, 0), (8, 0)):
        server.did(base + per_width * width + per_read * read, 1, width, read)
    server.admission.stepping.rate = 0.0
    return server


async def embedding_server(model: str = EMBEDDINGS, **options: Any) -> EmbeddingServer:
    return await started(faked(load_catalog()[model]), **options)
