"""What every model replica does, whatever its task: load, warm up, say that it is healthy."""

import asyncio
import logging
import time
from typing import Any

from deployments.settings import ModelArgs
from models.errors import EngineFailed
from models.registry import load_engine

logger = logging.getLogger("ray.serve")


class EngineServer:
    """A replica around one engine. Subclasses add the methods of a task and a warm-up."""

    engine: Any

    async def __init__(self, args: ModelArgs):
        self.args = args
        self.spec = args.spec
        self.variant = args.variant_spec
        started = time.monotonic()
        self.engine = await self.load()
        loaded = time.monotonic()
        await self.warm_up()
        logger.info(
            "%s@%s is ready: loaded in %.1f s, warmed up in %.1f s",
            *(self.spec.id, args.variant_name, loaded - started, time.monotonic() - loaded),
        )

    async def load(self) -> Any:
        """Load the engine, off the event loop so that Serve's probes are answered meanwhile."""
        return await asyncio.to_thread(load_engine, self.spec, self.variant)

    async def warm_up(self) -> None:
        """Run one small request, so that the first real one finds everything paged in."""
        raise NotImplementedError

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises three times in a row."""
        check = getattr(self.engine, "check_health", None)
        if check is not None:
            await check()


def broken(spec_id: str, error: Exception) -> EngineFailed:
    """The client's view of an error that no engine translated; the log keeps the whole of it."""
    logger.error("engine of %s failed", spec_id, exc_info=error)
    return EngineFailed(f"The model {spec_id} failed on this request. Try again; if it fails again, tell the operator.")
