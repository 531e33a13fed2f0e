"""Routers share the turns of requests that were refused, because a client may come back to any of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.notices import Notices
from deployments.router.promises import Promises

logger = logging.getLogger("ray.serve")

# How often a router gives what is new. Turns are a second apart, so the others know them in time.
EVERY_S = 0.1
# A router that is alone looks so often whether it still is.
LOOK_S = 1.0
AFTER_ERROR_S = 1.0


async def share_turns(promises: Promises, notices: Notices, several: Callable[[], bool]) -> None:
    """Share turns with the other routers, until this task is cancelled.

    Args:
        several: whether there are others.
    """

    async def give() -> None:
        news = promises.news()
        if news and several():
            await notices.give(promises.router, news)
        await asyncio.sleep(EVERY_S)

    async def take() -> None:
        if several():
            promises.heard(await notices.take(promises.router))
            await asyncio.sleep(EVERY_S)
        else:
            notices.leave()
            await asyncio.sleep(LOOK_S)

    await asyncio.gather(_repeat(give), _repeat(take))


async def _repeat(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except Exception as error:  # the router that kept the notices has ended, most likely
            logger.warning("turns could not be shared with other routers for a moment: %s", type(error).__name__)
            await asyncio.sleep(AFTER_ERROR_S)
