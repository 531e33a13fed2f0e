"""What routers share, on the cluster that runs: a process of its own, which ends with an error if it does not work."""

import asyncio

import ray
from ray.exceptions import RayActorError

from deployments.board import DIGESTS
from deployments.ray_board import RayBoard
from deployments.ray_notices import NAME, NAMESPACE, RayNotices
from medley.local.preflight import HEAD_PORT


async def finds_out(router: RayNotices, name: str) -> None:
    for _ in range(300):  # an actor that is killed may still answer
        try:
            await router.give(name, [])
        except RayActorError:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("an actor that was killed goes on answering")


async def main() -> None:
    board = RayBoard()
    key = board.get(DIGESTS)
    assert key is not None, "the router has claimed none"
    assert board.claim(DIGESTS, {"key": "another"}) == key

    one, other = RayNotices(), RayNotices()
    for number in range(2):
        waiting = asyncio.create_task(other.take("other"))
        while not waiting.done():  # what is given before the other has asked is for nobody
            await one.give("one", [number])
            await asyncio.sleep(0.2)
        assert set(await waiting) == {number}
        # What keeps them ends, as with the router that made it. Both find that out once, and then another is made.
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
        for router, name in ((one, "one"), (other, "other")):
            await finds_out(router, name)

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
