import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import until

from deployments.servers.batching import PATIENT_EVERY, Batcher

lengths = st.lists(st.integers(1, 200), min_size=1, max_size=40)


class Recorder:
    """Embeds a token list as (first token, length), and keeps every batch."""

    def __init__(self):
        self.batches: list[list[list[int]]] = []

    def __call__(self, batch):
        self.batches.append([list(tokens) for tokens in batch])
        return self.vectors(batch)

    def vectors(self, batch):
        return np.array([[tokens[0], len(tokens)] for tokens in batch], dtype=np.float32)


@settings(max_examples=60)
@given(st.lists(lengths, min_size=1, max_size=8))
def test_every_request_gets_its_own_rows_in_order_within_the_bounds(requests):
    recorder = Recorder()
    batcher = Batcher(recorder, len, largest_batch=8, largest_cost=512)
    token_lists = [[[number] * length for length in request] for number, request in enumerate(requests)]

    async def run():
        return await asyncio.gather(*(batcher.submit(tokens) for tokens in token_lists))

    for number, (request, vectors) in enumerate(zip(requests, asyncio.run(run()), strict=True)):
        assert [vector.tolist() for vector in vectors] == [[number, length] for length in request]
    for batch in recorder.batches:
        assert len(batch) <= 8
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= 512


class Held(Recorder):
    """Works on a batch when it is let go, batch by batch or, once it is open, at once."""

    def __init__(self):
        super().__init__()
        self.go = threading.Semaphore(0)
        self.open = False

    def __call__(self, batch):
        self.batches.append([list(tokens) for tokens in batch])
        while not self.open and not self.go.acquire(timeout=0.01):
            pass
        return self.vectors(batch)

    async def begun(self, count):
        await until(lambda: len(self.batches) >= count, f"batch {count} is under way")


async def test_a_large_request_does_not_hold_up_a_small_one():
    held = Held()
    batcher = Batcher(held, len, largest_batch=8)
    large = asyncio.create_task(batcher.submit([[0] * 10] * 400))
    held.go.release(5)
    await held.begun(6)
    small = asyncio.create_task(batcher.submit([[1] * 10]))
    await asyncio.sleep(0)
    held.go.release(3)  # the batch that was under way, and two more
    await held.begun(9)
    early, held.open = (small.done(), large.done()), True
    assert early == (True, False)
    assert [vector.tolist() for vector in await small] == [[1, 10]]
    assert len(await large) == 400


async def test_similar_lengths_share_a_batch():
    held = Held()
    batcher = Batcher(held, len)
    first = asyncio.create_task(batcher.submit([[0] * 5]))
    await held.begun(1)
    others = [asyncio.create_task(batcher.submit(one)) for one in ([[1] * 5, [1] * 200], [[2] * 6, [2] * 190])]
    await asyncio.sleep(0)
    held.open = True
    await asyncio.gather(first, *others)
    assert [sorted(map(len, batch)) for batch in held.batches] == [[5], [5, 6], [190, 200]]


async def test_a_cancelled_request_is_dropped():
    held = Held()
    batcher = Batcher(held, len)
    first = asyncio.create_task(batcher.submit([[0]]))
    await held.begun(1)
    gone = asyncio.create_task(batcher.submit([[7]]))
    kept = asyncio.create_task(batcher.submit([[8]]))
    await asyncio.sleep(0)
    gone.cancel()
    held.open = True
    await asyncio.gather(first, kept)
    assert held.batches == [[[0]], [[8]]]


async def test_an_error_fails_its_batch_only():
    def embed(batch):
        if any(tokens[0] == 13 for tokens in batch):
            raise ValueError("thirteen")
        return np.zeros((len(batch), 1), dtype=np.float32)

    batcher = Batcher(embed, len)
    with pytest.raises(ValueError, match="thirteen"):
        await batcher.submit([[13]])
    assert len(await batcher.submit([[1]])) == 1


async def test_the_event_loop_stays_free_while_the_model_works():
    loop_thread = threading.get_ident()
    seen = []

    def embed(batch):
        seen.append(threading.get_ident())
        return np.zeros((len(batch), 1), dtype=np.float32)

    await Batcher(embed, len).submit([[1]])
    assert seen[0] != loop_thread


async def test_what_nobody_waits_for_comes_last():
    held = Held()
    batcher = Batcher(held, len, largest_batch=1)
    first = asyncio.create_task(batcher.submit([[0]]))
    await held.begun(1)
    patient = [asyncio.create_task(batcher.submit([[7]], patient=True)) for _ in range(3)]
    await asyncio.sleep(0)
    urgent = [asyncio.create_task(batcher.submit([[8]])) for _ in range(3)]
    await asyncio.sleep(0)
    held.open = True
    await asyncio.gather(first, *patient, *urgent)
    assert [batch[0][0] for batch in held.batches] == [0, 8, 8, 8, 7, 7, 7]


async def test_what_nobody_waits_for_is_not_left_for_ever():
    """However much else there is to do."""
    held = Held()
    batcher = Batcher(held, len, largest_batch=1)
    first = asyncio.create_task(batcher.submit([[0]]))
    await held.begun(1)
    patient = asyncio.create_task(batcher.submit([[7]], patient=True))
    urgent = [asyncio.create_task(batcher.submit([[8]])) for _ in range(3 * PATIENT_EVERY)]
    await asyncio.sleep(0)
    held.open = True
    await asyncio.gather(first, patient, *urgent)
    assert [batch[0][0] for batch in held.batches].index(7) == PATIENT_EVERY - 1


async def test_what_nobody_waits_for_takes_no_place_from_who_is_waited_for():
    """A batch begins with the front of the queue, and whoever is waited for fills it first, near in cost or less so."""
    held = Held()
    batcher = Batcher(held, len, largest_batch=2)
    first = asyncio.create_task(batcher.submit([[0]]))
    await held.begun(1)
    patient = asyncio.create_task(batcher.submit([[7] * 5], patient=True))
    await asyncio.sleep(0)
    urgent = [asyncio.create_task(batcher.submit([[8] * length])) for length in (5, 9)]
    await asyncio.sleep(0)
    held.open = True
    await asyncio.gather(first, patient, *urgent)
    assert [[(one[0], len(one)) for one in batch] for batch in held.batches] == [[(0, 1)], [(8, 5), (8, 9)], [(7, 5)]]


@pytest.mark.parametrize(("patient", "batches"), [(False, 32), (True, 70)])
async def test_who_comes_later_does_not_overtake(patient, batches):
    """Among those that are waited for, and among those that are not, however far the others have come: from then on
    they take turns."""
    held = Held()
    batcher = Batcher(held, len, largest_batch=1)
    early = asyncio.create_task(batcher.submit([[1]] * 40, patient=patient))
    others = asyncio.create_task(batcher.submit([[9]] * 40, patient=not patient))
    held.go.release(batches - 1)
    await held.begun(batches)
    late = asyncio.create_task(batcher.submit([[2]] * 40, patient=patient))
    await asyncio.sleep(0)
    held.open = True
    await asyncio.gather(early, others, late)
    rest = [batch[0][0] for batch in held.batches[batches:] if batch[0][0] != 9]
    left = rest.count(1)
    assert 5 < left < 20
    assert left - 1 <= rest[: 2 * left].count(2) <= left + 1


async def test_items_of_other_kinds_cost_what_their_engine_says():
    made = []

    def shout(batch):
        made.append(list(batch))
        return [text.upper() for text in batch]

    batcher = Batcher(shout, cost=lambda text: 100 * len(text), largest_cost=500)
    first = asyncio.create_task(batcher.submit(["a"]))
    await asyncio.sleep(0)
    rest = await batcher.submit(["bb", "cc", "d", "ee"])
    assert (await first, rest) == (["A"], ["BB", "CC", "D", "EE"])
    assert sorted(map(sorted, made)) == [["a", "d"], ["bb", "cc"], ["ee"]]


def two_of_three(batch):
    yield from batch[:2]


def breaks_in_the_middle(batch):
    yield batch[0]
    raise OSError("the device is gone")


def at_the_end(batch):
    raise StopIteration


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (two_of_three, ValueError, "a batch of 3 items has 2 results"),
        (lambda batch: [*batch, 4], ValueError, "a batch of 3 items has 4 results"),
        (lambda batch: None, TypeError, "not iterable"),
        (breaks_in_the_middle, OSError, "gone"),
        (at_the_end, RuntimeError, "StopIteration"),
    ],
)
async def test_a_batch_without_a_result_for_each_item_fails_instead_of_waiting_forever(run, error, says):
    batcher = Batcher(run)
    async with asyncio.timeout(5):
        with pytest.raises(error, match=says):
            await batcher.submit([1, 2, 3])


async def test_those_in_the_queue_behind_a_broken_batch_are_served():
    batcher = Batcher(lambda batch: [] if 0 in batch else batch, largest_batch=1)
    async with asyncio.timeout(5):
        broken, served = await asyncio.gather(batcher.submit([0]), batcher.submit([1]), return_exceptions=True)
    assert isinstance(broken, ValueError)
    assert served == [1]


async def test_an_error_while_a_batch_is_counted_fails_it():
    def count(items):
        raise OSError("no metrics")

    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="no metrics"):
            await Batcher(list, on_batch=count).submit([1])


async def test_a_request_without_items_has_no_results():
    async with asyncio.timeout(5):
        assert await Batcher(list).submit([]) == []


async def test_nothing_of_a_request_runs_if_one_of_its_items_has_no_cost():
    ran = []
    costs = {1: 1.0, 3: 1.0}
    batcher = Batcher(lambda batch: (ran.extend(batch), batch)[1], costs.__getitem__)
    with pytest.raises(KeyError):
        await batcher.submit([1, 2])
    assert await batcher.submit([3]) == [3]
    assert ran == [3]
