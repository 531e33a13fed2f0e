"""Work in an engine's thread. An engine that raises StopIteration must not leave anybody waiting."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.servers.denoising import DenoisingLoop
from deployments.servers.pictures import PictureServer
from deployments.servers.threads import run_in
from models.errors import EngineFailed


def stop(*_: Any):
    raise StopIteration


async def test_a_result_and_an_error_come_as_they_are():
    with ThreadPoolExecutor(1) as thread:
        assert await run_in(thread, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await run_in(thread, divmod, 7, 0)


async def test_a_server_of_pictures_answers_when_its_engine_stops():
    server: Any = object.__new__(PictureServer)
    server.spec = SimpleNamespace(id="painter")
    with ThreadPoolExecutor(1) as server._engine_thread:
        async with asyncio.timeout(5):
            with pytest.raises(EngineFailed):
                await server.in_turn(np.zeros((1, 1, 3), np.uint8), stop)


async def test_the_loop_of_pictures_goes_on_when_its_engine_stops():
    engine: Any = SimpleNamespace(start=stop)
    picture: Any = SimpleNamespace(width=8, height=8, pixels=64)
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await DenoisingLoop(engine).make(picture)
