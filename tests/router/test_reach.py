"""Up to which size a model keeps its promise alone, and what is told of it; a request beyond that."""

import httpx2
import openai
import pytest
from clients import http_client
from local_dispatcher import LocalDispatcher

from deployments.board import PACE
from deployments.router.application import create_application
from deployments.router.dispatch import ModelState, State
from deployments.router.promises import Promises
from deployments.router.reach import Reach, reach
from deployments.router.services import Services
from models.catalog import load_catalog
from models.errors import BeyondPromise
from models.slo import Targets

TOKENS = {"unit": "tokens of prompt", "sizes": [[16, 0.2, 0.1, 6.5], [128, 1.0, 0.1, 7.3], [8192, 64.0, 0.15, 73.45]]}
PIXELS = {"unit": "megapixels of picture", "sizes": [[0.0625, 1, 0, 1], [0.125, 2, 0, 2], [4, 64, 0, 64]]}
PICTURES = {"unit": "pictures of 512x512 with 25 steps", "sizes": [[1, 2, 2, 40], [2, 3, 3, 60], [4, 5, 5, 100]]}


def promise(**limits):
    return Targets(**limits, good=0.99, availability=0.999)


@pytest.mark.parametrize(
    ("pace", "limits", "up_to", "limit", "said"),
    [
        (TOKENS, {"time_to_first_token_s": 2.5}, 320, "time_to_first_token_s", "up to 320 tokens of prompt (of 8192)"),
        (TOKENS, {"duration_s": 73, "time_to_first_token_s": 60}, 7680, "time_to_first_token_s", "to first token 60 s"),
        (TOKENS, {"time_per_output_token_s": 0.11}, 1740, "time_per_output_token_s", "time per output token 0.11 s"),
        (TOKENS, {"time_per_output_token_s": 0.09}, None, "time_per_output_token_s", "even alone with 16 tokens of"),
        (TOKENS, {"duration_s": 120}, 8192, None, "up to 8192 tokens of prompt, the most that it takes"),
        (TOKENS, {"duration_s": 73.45}, 8192, None, "the most that it takes"),
        (PIXELS, {"duration_s": 30}, 1.87, "duration_s", "up to 1.87 megapixels of picture (of 4): duration 30 s"),
        (PICTURES, {"duration_s": 59}, 1, "duration_s", "up to 1 picture of 512x512 with 25 steps (of 4)"),
        (PICTURES, {"duration_s": 10}, None, "duration_s", "alone with 1 picture of 512x512"),
        (PICTURES, {"real_time_factor": 1}, 4, None, "up to 4 pictures of"),
    ],
)
def test_the_promise_is_kept_up_to_a_size(pace, limits, up_to, limit, said):
    found = reach(pace, promise(**limits))
    assert (found.up_to, found.limit, found.limited) == (up_to, limit, limit is not None)
    assert said in str(found)
    assert Reach.of(found.document()) == found


@pytest.mark.parametrize(
    ("pace", "targets"), [(None, promise(duration_s=1)), (TOKENS, None), ({"sizes": []}, promise())]
)
def test_without_a_promise_or_a_pace_nothing_is_said(pace, targets):
    assert reach(pace, targets) is None


async def test_readyz_and_the_card_tell_it_of_the_variant_that_runs(chat, chat_model):
    paces = {"another": PIXELS, "fake": TOKENS | {"at": 5.0}}
    dispatcher = LocalDispatcher({chat_model: chat}, {chat_model: ModelState(State.READY, "fake", paces=paces)})
    promises = Promises({chat_model: promise(time_to_first_token_s=2.5)})
    async with http_client(create_application(Services(load_catalog(), dispatcher, promises=promises))) as http:
        told = (await http.get("/readyz")).json()["models"][chat_model]
        card = (await http.get(f"/v1/models/{chat_model}")).json()
    expected = {"unit": "tokens of prompt", "smallest": 16, "largest": 8192, "up_to": 320}
    assert told["reach"] == card["reach"] == expected | {"limit": "time_to_first_token_s", "limit_s": 2.5}
    assert told["pace"] == {"fake": TOKENS, "another": PIXELS}
    assert "pace" not in card


async def test_the_official_client_does_not_try_again_what_is_beyond_the_promise(chat, chat_model, monkeypatch):
    asked = []

    def refusing(work, terms, now, shows):
        asked.append(work)
        raise BeyondPromise("Ask for less at a time.")

    monkeypatch.setattr(chat.admission, "enter", refusing)
    services = Services(load_catalog(), LocalDispatcher({chat_model: chat}))
    transport = httpx2.ASGITransport(create_application(services), raise_app_exceptions=False)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(api_key="none", base_url="http://medley/v1", max_retries=2, http_client=http) as client,
    ):
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(
                    model=chat_model, messages=[{"role": "user", "content": "hi"}], stream=stream
                )
            assert (refused.value.status_code, refused.value.code) == (422, "beyond_promise")
            assert "retry-after" not in refused.value.response.headers
    assert len(asked) == 2


def test_the_router_reads_it_from_the_board():
    from deployments.router.discovery import model_states

    name = "all-minilm-l6-v2"
    application = {"status": "RUNNING", "last_deployed_time_s": 1.0, "deployments": {}, "deployed_app_config": {}}
    facts = {PACE.format(app=name, variant="onnx"): TOKENS, PACE.format(app=f"{name}@onnx", variant="onnx"): PIXELS}
    states = model_states({name: application}, load_catalog(), {}, facts, 5.0)
    assert states[name].paces == {"onnx": TOKENS}
