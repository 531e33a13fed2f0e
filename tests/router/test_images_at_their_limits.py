"""The largest that a model makes is made, and one more is refused: a limit that is off by one is a wrong limit."""

import pytest

from deployments.router.sequences import MOST_PICTURES, check_pictures
from models.catalog import load_catalog
from models.errors import InvalidRequest
from models.tasks.images import TASK

GENERATIONS = "/v1/images/generations"
# Of the model `painter`; see conftest.py.
LIMITS = [({"steps": 10}, {"steps": 11}), ({"n": 4}, {"n": 5}), ({"size": "128x64"}, {"size": "136x64"})]
LIMITS += [({"size": "32x32"}, {"size": "24x32"}), ({"seed": (1 << 63) - 2, "n": 2}, {"seed": (1 << 63) - 1, "n": 2})]


@pytest.mark.parametrize(("most", "more"), LIMITS)
async def test_the_most_is_made_and_more_is_refused(images, most, more):
    body = {"model": "painter", "prompt": "blue"}
    assert (await images.post(GENERATIONS, json=body | most)).status_code == 200
    refused = await images.post(GENERATIONS, json=body | more)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] in more


@pytest.mark.parametrize("spec", load_catalog().of_task(TASK), ids=lambda spec: spec.id)
def test_what_multiplies_in_one_request_is_bounded_and_what_openai_allows_is_not(spec):
    of = TASK.settings_of(spec)
    check_pictures(of.most_images, None, None, 2 * of.steps, of)  # n with quality: high
    check_pictures(1, of.largest, of.largest, of.most_steps, of)
    with pytest.raises(InvalidRequest, match="Ask for at most 1 at a time") as caught:
        check_pictures(2, of.width * 4, of.height * 4, of.steps * MOST_PICTURES // 16, of)
    assert caught.value.param == "n"
