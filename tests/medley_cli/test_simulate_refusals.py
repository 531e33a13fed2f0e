"""What the simulator says of requests that a full queue refused: they were asked, and were not good."""

import pytest

from medley.simulation.cluster import Run, Settings, simulate


def test_a_refused_request_was_not_good():
    assert Run(waits=[0.0, 0.0, 9.0], refused=1).goodput(1.0) == pytest.approx(0.5)
    assert Run(refused=3).goodput(1.0) == 0.0
    assert Run().goodput(1.0) == 0.0


@pytest.mark.parametrize("most_queued", [0, 2, 5])
def test_what_a_full_queue_refuses_lowers_the_goodput(most_queued):
    """Ten at once for one place: one is served at once, so many wait, and the others are refused."""
    settings = Settings(slots=1, max_replicas=1, most_queued=most_queued)
    run = simulate([0.1] * 10, [1.0] * 10, lambda context: (1, {}), settings)
    assert (len(run.waits), run.refused) == (1 + most_queued, 9 - most_queued)
    assert run.goodput(1000) == pytest.approx((1 + most_queued) / 10)
