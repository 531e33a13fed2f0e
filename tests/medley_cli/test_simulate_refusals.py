"""What the simulator says of requests that were refused: they were asked, and were not good."""

import pytest

from deployments.servers.calls import Terms
from deployments.servers.pace import Work
from medley.simulation.cluster import Run, Settings, simulate
from medley.simulation.replica import Machine


def test_a_refused_request_was_not_good():
    assert Run(waits=[0.0, 0.0, 9.0], good=2, refused=1).goodput() == pytest.approx(0.5)
    assert Run(refused=3).goodput() == 0.0
    assert Run().goodput() == 0.0


@pytest.mark.parametrize("in_time", [1, 3, 5])
def test_what_is_refused_lowers_the_goodput(in_time):
    """Ten at once for a replica that writes tokens in turn: those that it can answer in time are let in."""
    machine = Machine(1e-6, 0.01, 1e-6, noise=0.0)
    promised = Terms(whole_s=1.0 * in_time * 1.3)
    settings = Settings(machine, 8, promised, max_replicas=1, come_back=0.0)
    run = simulate([0.1] * 10, [Work(1.0, 100.0)] * 10, lambda context: (1, {}), settings)
    assert (len(run.waits), run.refused) == (in_time, 10 - in_time)
    assert run.goodput() == pytest.approx(in_time / 10)
