"""The largest that a model makes is made, and one more is refused: a limit that is off by one is a wrong limit."""

import pytest

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
