"""The arithmetic of the rules: what is counted over a window is counted over all of it, and the windows of an alert are
those whose burn rates are recorded."""

import re
from pathlib import Path

import pytest
import yaml

from medley.monitoring.objectives import objectives
from medley.monitoring.rules import BAD, BURN, SPEEDS, rules_document
from models.slo import load_slo

SLO = load_slo(Path(__file__).resolve().parents[2] / "slo.yaml")
SECONDS = {"m": 60, "h": 3600}


def seconds(window: str) -> int:
    return int(window[:-1]) * SECONDS[window[-1]]


@pytest.fixture(params=SLO.profiles)
def rules(request) -> list[dict]:
    document = yaml.safe_load(yaml.safe_dump(rules_document(objectives(SLO, request.param))))
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_bad_requests_are_counted_over_their_whole_window(rules):
    counts = [rule for rule in rules if rule.get("record", "").startswith(BAD)]
    assert counts
    for rule in counts:
        window = rule["record"].removeprefix(BAD)
        assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {window}
        assert rule["expr"].endswith(f" * {seconds(window)}")  # a rate a second becomes a number


def test_a_burn_rate_is_of_the_window_in_its_name(rules):
    for rule in rules:
        if rule.get("record", "").startswith(BURN):
            assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {rule["record"].removeprefix(BURN)}


def test_what_an_alert_reads_is_recorded(rules):
    recorded = {rule["record"] for rule in rules if "record" in rule}
    alerts = [rule["expr"] for rule in rules if "alert" in rule]
    read = {name for expr in alerts for name in re.findall(r"medley:\w+(?::\w+)?", expr)}
    assert read
    assert read <= recorded


def test_a_fast_alert_calls_before_a_slow_one():
    """Google's SRE workbook, chapter 5: 2 % of a month's budget in an hour, 5 % in six."""
    fast, slow = SPEEDS
    for speed, share in ((fast, 0.02), (slow, 0.05)):
        assert speed.times * seconds(speed.long) / (30 * 24 * 3600) == pytest.approx(share)
        assert seconds(speed.short) * 12 == seconds(speed.long)
