"""What routers share, on the cluster that runs: a process of its own, which ends with an error if it does not work."""

import asyncio

import ray
from ray.exceptions import RayActorError

from deployments.board import DIGESTS
from deployments.ray_board import RayBoard
from deployments.ray_notices import NAME, NAMESPACE, RayNotices
from medley.local.preflight import HEAD_PORT


async def main() -> None:
    board = RayBoard()
    key = board.get(DIGESTS)
    assert key is not None, "the router has claimed none"
    assert board.claim(DIGESTS, {"key": "another"}) == key

    one, other = RayNotices(), RayNotices()
    for number in range(2):
        waiting = asyncio.create_task(other.take("other"))
        await asyncio.sleep(1)
        await one.give("one", [number])
        assert await waiting == [number]
        # What keeps them ends, as with the router that made it. Both find that out once, and then another is made.
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
        for call in (one.give("one", []), other.take("other")):
            try:
                await call
            except RayActorError:
                continue
            raise AssertionError("an actor that was killed answers")

    await one.give("one", [])
    one.leave()
    for _ in range(100):
        try:
            ray.get_actor(NAME, namespace=NAMESPACE)
        except ValueError:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the actor goes on though the router that made it is alone")


ray.init(f"127.0.0.1:{HEAD_PORT}", log_to_driver=False, _node_ip_address="127.0.0.1")
asyncio.run(main())
