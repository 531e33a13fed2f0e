"""Two routers of one cluster, as they are deployed: who was refused by one is known to the other."""

import asyncio

import httpx
import pytest
from local_serve import PROFILE, local_serve, slow_embeddings  # noqa: F401
from patience import until
from replicas import EMBEDDINGS, paced

pytestmark = pytest.mark.usefixtures("virtual_clock")

TEXTS = {"model": EMBEDDINGS, "input": ["hi"] * 64}


def http_of(application, address, key) -> httpx.AsyncClient:
    """A client whose requests come from an address, as a router sees it."""
    transport, headers = httpx.ASGITransport(application, client=(address, 1)), {"authorization": key} if key else {}
    return httpx.AsyncClient(transport=transport, headers=headers, base_url="http://medley", timeout=None)


@pytest.mark.parametrize(
    ("addresses", "keys", "known"),
    [
        (("10.0.0.1", "10.0.0.1"), ("", ""), True),
        (("10.0.0.1", "10.0.0.2"), ("", ""), False),
        (("10.0.0.1", "10.0.0.2"), ("Bearer mine", "Bearer mine"), True),  # there may be several ways to the routers
        (("10.0.0.1", "10.0.0.1"), ("Bearer mine", "Bearer another"), False),
    ],
)
async def test_who_was_refused_by_one_router_comes_back_to_another(local_serve, addresses, keys, known):  # noqa: F811
    server = paced(await slow_embeddings(0.4), 0.8)  # one fits within the promised second
    server.admission.pace.learn = lambda *others: None  # on this clock, what the engine's thread does takes no time
    enter, terms = server.admission.enter, []

    def noted(work, its_terms, *others):
        terms.append(its_terms)
        return enter(work, its_terms, *others)

    server.admission.enter = noted
    local_serve.deploy(EMBEDDINGS, server)
    first, second = [await local_serve.router(promises=PROFILE) for _ in range(2)]
    await asyncio.sleep(3)  # each has seen that there are two
    ways = [http_of(*way) for way in zip((first, second), addresses, keys, strict=True)]
    async with ways[0] as one, ways[1] as other:
        inside = asyncio.create_task(one.post("/v1/embeddings", json=TEXTS))
        await until(lambda: server.admission.inside, "one is inside")
        refused = await one.post("/v1/embeddings", json=TEXTS)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        await asyncio.sleep(1)
        await inside
        # To a newcomer it is not given: it is kept for the one that is due.
        assert (await other.post("/v1/embeddings", json=TEXTS)).status_code == (200 if known else 429)
        await asyncio.sleep(1)
        assert (await one.post("/v1/embeddings", json=TEXTS)).status_code == 200  # if its turn was not taken, it has it
    came = [(True, True), (False, False)] if known else [(False, False), (True, True)]
    assert [(one.again, one.returns) for one in terms] == [(False, False)] * 2 + came
