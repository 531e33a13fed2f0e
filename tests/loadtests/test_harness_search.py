"""The search for the highest rate, on servers whose limit is known."""

import json
import random

import pytest

from loadtest.report import knee
from loadtest.searching import MOST_PROBES, Found, Probe, search_for_rate


def server(limit, unclear=0.0, seed=1):
    """Holds below a limit; near it, by `unclear` of it, nothing is proven."""
    draw, tried = random.Random(seed), []

    def probe(number, rate):
        tried.append((number, rate))
        near = abs(rate - limit) < unclear * limit
        holds = None if near and draw.random() < 0.5 else rate <= limit
        return Probe(rate, holds, min(rate, limit), 1.0 if holds else 0.5)

    return probe, tried


@pytest.mark.parametrize("limit", [1.1, 3.0, 17.3, 64.0])
@pytest.mark.parametrize("unclear", [0.0, 0.1])
def test_the_limit_lies_in_the_bracket(limit, unclear):
    probe, tried = server(limit, unclear)
    found = search_for_rate(probe, 1.0, 0.1)
    assert found.low <= limit * 1.001
    assert found.high >= limit * (1 - unclear)
    assert found.high <= found.low * 1.35
    assert len(tried) <= MOST_PROBES + 1
    assert [number for number, _ in tried] == list(range(1, len(tried) + 1))  # other requests each time
    assert found.monotone


def test_a_server_that_holds_nothing_and_one_that_holds_all():
    nothing = search_for_rate(server(0.001)[0], 1.0, 0.1)
    assert nothing.low is None
    assert "Not even" in nothing.words()
    everything = search_for_rate(server(1e9)[0], 1.0, 0.1)
    assert everything.high is None
    assert "no limit was reached" in everything.words()


def test_results_that_contradict_each_other_are_told(tmp_path):
    found = Found(4.0, 5.0, [Probe(4.0, True, 4, 1), Probe(3.0, False, 1, 0.4), Probe(5.0, False, 1, 0.2)])
    assert not found.monotone
    assert "noisy" in found.words()
    knee.write(found, tmp_path)
    assert json.loads((tmp_path / "search.json").read_text())["low"] == 4.0
    assert (tmp_path / "search.html").read_text().count("<svg") == 1
