"""The loop that denoises pictures of many requests together, on the fake engine."""

import asyncio
import threading

import numpy as np
import pytest
from patience import patience, until

from deployments.servers.denoising import MOST_GROUPS, DenoisingLoop
from models.engines.images_fake import Engine as FakeImages
from models.errors import EngineFailed, InvalidRequest, OutOfMemory
from models.tasks.images import Picture


def picture(prompt="red", side=16, steps=4, seed=0, **more):
    return Picture(prompt, "", side, side, steps, 1.0, "fake", seed, **more)


class HeldImages(FakeImages):
    """Waits before each step until it is let go."""

    def __init__(self):
        super().__init__()
        self.go = threading.Semaphore(0)
        self.begun = 0
        self.stepped = []

    def step(self, batch):
        self.begun += 1
        assert self.go.acquire(timeout=patience())
        super().step(batch)
        self.stepped.append([one.picture.seed for one in batch])


async def turns(engine, count):
    """Let the engine take steps, and wait until it has."""
    before = len(engine.stepped)
    engine.go.release(count)
    await until(lambda: len(engine.stepped) == before + count, f"{before + count} steps", every=0.001)


async def a_step_is_under_way(engine):
    await until(lambda: engine.begun > len(engine.stepped), "the next step", every=0.001)


async def test_pictures_of_several_callers_share_their_steps():
    engine = FakeImages()
    loop = DenoisingLoop(engine)
    pictures = await asyncio.gather(*(loop.make(picture(seed=seed)) for seed in range(8)))
    assert engine.batches == [8, 8, 8, 8]
    assert len({one.tobytes() for one in pictures}) == 8


async def test_a_picture_is_the_same_alone_and_among_others():
    alone = await DenoisingLoop(FakeImages()).make(picture(seed=3))
    loop = DenoisingLoop(FakeImages())
    among = await asyncio.gather(*(loop.make(picture(seed=seed, steps=2 + seed)) for seed in (1, 2, 3)))
    others = await DenoisingLoop(FakeImages()).make(picture(seed=3, steps=5))
    assert (among[2] == others).all()
    assert not (among[2] != alone).all()


async def test_a_late_one_joins_between_steps_and_leaves_when_it_is_finished():
    engine = HeldImages()
    loop = DenoisingLoop(engine)
    first = asyncio.create_task(loop.make(picture(seed=1, steps=6)))
    await turns(engine, 2)
    await a_step_is_under_way(engine)
    second = asyncio.create_task(loop.make(picture(seed=2, steps=2)))
    await asyncio.sleep(0)
    await turns(engine, 4)
    assert engine.stepped == [[1], [1], [1], [1, 2], [1, 2], [1]]  # the third step was under way when it came
    await asyncio.gather(first, second)


async def test_a_cancelled_one_costs_at_most_the_step_it_is_in():
    engine = HeldImages()
    loop = DenoisingLoop(engine)
    leaving = asyncio.create_task(loop.make(picture(seed=1, steps=50)))
    staying = asyncio.create_task(loop.make(picture(seed=2, steps=4)))
    await turns(engine, 2)
    await a_step_is_under_way(engine)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await turns(engine, 2)
    await staying
    assert [seeds for seeds in engine.stepped if 1 in seeds] == [[1, 2]] * 3


async def test_a_cancelled_one_that_waits_is_never_started():
    engine = HeldImages()
    started = []
    start = engine.start
    engine.start = lambda one: started.append(one.seed) or start(one)
    loop = DenoisingLoop(engine, largest_batch=1)
    first = asyncio.create_task(loop.make(picture(seed=1, steps=2)))
    second = asyncio.create_task(loop.make(picture(seed=2, steps=2)))
    third = asyncio.create_task(loop.make(picture(seed=3, steps=2)))
    await turns(engine, 1)
    await a_step_is_under_way(engine)
    third.cancel()
    await turns(engine, 3)
    await asyncio.gather(first, second)
    assert started == [1, 2]


async def test_other_sizes_take_turns():
    engine = HeldImages()
    loop = DenoisingLoop(engine)
    tasks = [
        asyncio.create_task(loop.make(picture(seed=seed, side=side))) for seed, side in ((1, 16), (2, 32), (3, 16))
    ]
    await turns(engine, 8)
    await asyncio.gather(*tasks)
    assert engine.stepped == [[1, 3], [2]] * 4


async def test_more_sizes_than_groups_wait_and_all_are_made():
    engine = FakeImages()
    loop = DenoisingLoop(engine)
    sides = [8 * (number + 1) for number in range(MOST_GROUPS + 3)]
    made = await asyncio.gather(*(loop.make(picture(side=side)) for side in sides))
    assert [one.shape[0] for one in made] == sides


async def test_no_batch_is_larger_than_the_limit():
    engine = FakeImages()
    loop = DenoisingLoop(engine, largest_batch=3)
    await asyncio.gather(*(loop.make(picture(seed=seed)) for seed in range(10)))
    assert max(engine.batches) == 3


async def test_out_of_memory_halves_the_batch_and_loses_nothing():
    class Small(FakeImages):
        def step(self, batch):
            if len(batch) > 3:
                raise OutOfMemory("too large")
            super().step(batch)

    engine = Small()
    loop = DenoisingLoop(engine)
    made = await asyncio.gather(*(loop.make(picture(seed=seed)) for seed in range(8)))
    assert len(made) == 8
    assert max(engine.batches) <= 3  # a batch that did not fit made no step
    alone = await DenoisingLoop(FakeImages()).make(picture(seed=7))
    assert (made[7] == alone).all()
    engine.batches.clear()
    await asyncio.gather(*(loop.make(picture(seed=seed)) for seed in range(8)))
    assert max(engine.batches) <= 3  # it has learnt


async def test_one_that_does_not_fit_alone_is_refused_and_the_loop_goes_on():
    class Tiny(FakeImages):
        def step(self, batch):
            if batch[0].picture.width > 16:
                raise OutOfMemory("too large")
            super().step(batch)

    loop = DenoisingLoop(Tiny())
    with pytest.raises(OutOfMemory):
        await loop.make(picture(side=32))
    assert (await loop.make(picture())).shape == (16, 16, 3)


async def test_a_refusal_of_one_prompt_does_not_touch_the_others():
    loop = DenoisingLoop(FakeImages())
    bad, good = await asyncio.gather(loop.make(picture("unspeakable")), loop.make(picture()), return_exceptions=True)
    assert isinstance(bad, InvalidRequest)
    assert isinstance(good, np.ndarray)


async def test_an_engine_that_breaks_fails_its_batch_and_serves_the_next():
    class Breaking(FakeImages):
        broken = True

        def step(self, batch):
            if self.broken:
                raise RuntimeError("secret")
            super().step(batch)

    engine = Breaking()
    loop = DenoisingLoop(engine)
    with pytest.raises(RuntimeError):
        await loop.make(picture())
    engine.broken = False
    assert (await loop.make(picture())).any()


async def test_nobody_waits_for_a_loop_that_has_ended():
    class Mad(FakeImages):
        def largest_batch(self, width, height):
            raise EngineFailed("mad")

    loop = DenoisingLoop(Mad())
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(asyncio.gather(loop.make(picture()), loop.make(picture())), patience())


async def test_previews_come_after_their_steps():
    loop = DenoisingLoop(FakeImages())
    seen, steps = [], []
    await loop.make(picture(steps=4), 2, lambda denoising: steps.append(denoising.step), seen.append)
    assert steps == [1, 2, 3, 4]
    assert len(seen) == 2
    assert seen[0].shape == (16, 16, 3)
