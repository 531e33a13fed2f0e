"""`medley check` at the boundary of each rule: the last value that is right, and the first that is wrong."""

import copy

import pytest
import yaml
from seeded_mistakes import SERVE, shipped

from medley.checks.command import problems_of

DOCUMENT = yaml.safe_load(shipped(SERVE))
PLACES = {one["name"]: index for index, one in enumerate(DOCUMENT["applications"])}
SCALING = ("applications", PLACES["all-minilm-l6-v2"], "deployments", 0, "autoscaling_config")
DEPLOYMENT = SCALING[:-1]
DEADLINE_S = 600  # of a router whose arguments do not say it

# Keys above the values, then the values that are right and those that are wrong, by key.
BOUNDARIES = [
    (SCALING, {"min_replicas": 3, "max_replicas": 3}, {"min_replicas": 4}),
    (("http_options",), {"request_timeout_s": DEADLINE_S + 1}, {"request_timeout_s": DEADLINE_S}),
    (("http_options",), {"port": 1}, {"port": 0}),
    (("http_options",), {"port": 65535}, {"port": 65536}),
    (DEPLOYMENT, {"graceful_shutdown_timeout_s": DEADLINE_S}, {"graceful_shutdown_timeout_s": DEADLINE_S - 1}),
    (DEPLOYMENT, {"max_queued_requests": 1}, {"max_queued_requests": -1}),
]


@pytest.mark.parametrize(("place", "right", "wrong"), BOUNDARIES, ids=lambda value: "-".join(map(str, value)))
def test_the_last_right_value_passes_and_the_next_is_named(tmp_path, place, right, wrong):
    def problems(**values) -> list[str]:
        document = copy.deepcopy(DOCUMENT)
        holder = document
        for key in place:
            holder = holder[key]
        holder.update(values)
        file = tmp_path / SERVE
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return [problem.where for problem in problems_of(file)]

    assert problems(**right) == []
    assert [where.rpartition(".")[2] for where in problems(**right | wrong)] == list(wrong)
