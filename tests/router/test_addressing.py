"""`model` and `model@variant`: which application answers, under which names, and what a refusal says."""

import httpx2
import openai
import pytest
from local_dispatcher import LocalDispatcher
from replicas import at_once, chat_server

from deployments.metering import MemoryMeter
from deployments.router.addressing import application_of, names_of
from deployments.router.application import create_application
from deployments.router.dispatch import ModelState, State
from deployments.router.services import Services
from deployments.telemetry import ERRORS, REQUESTS
from models.catalog import load_catalog
from models.tasks import BY_NAME

M = "all-minilm-l6-v2"
ONNX, TORCH, GPU = f"{M}@onnx", f"{M}@torch", f"{M}@torch-gpu"
CHAT = "smollm2-135m-instruct"
R, L, F, D = State.READY, State.LOADING, State.FAILED, State.DRAINING


def served(**variants: State | tuple[State, str]) -> dict[str, ModelState]:
    """States by application: `plain=(state, variant)` is `model`, `torch=state` is `model@torch`."""
    states = {}
    for key, value in variants.items():
        state, variant = value if isinstance(value, tuple) else (value, key.replace("_", "-"))
        states[M if key == "plain" else f"{M}@{variant}"] = ModelState(state, variant, replicas=1)
    return states


@pytest.mark.parametrize(
    ("name", "states", "answers"),
    [
        (M, served(plain=(R, "torch"), onnx=R), M),
        (M, served(plain=(L, "torch"), onnx=R), M),
        (M, served(onnx=R, torch=R), ONNX),
        (M, served(torch=R), TORCH),
        (M, served(torch=R, torch_gpu=R), None),
        (M, served(torch=R, torch_gpu=D), TORCH),
        (M, served(plain=(D, "torch"), torch_gpu=R), GPU),
        (M, served(plain=(D, "torch")), M),
        (M, {}, None),
        (TORCH, served(plain=(R, "torch")), M),
        (TORCH, served(plain=(R, "onnx")), None),
        (TORCH, served(plain=(R, "onnx"), torch=R), TORCH),
        (TORCH, served(plain=(R, "torch"), torch=R), TORCH),
        (TORCH, served(plain=(R, "torch"), torch=D), M),
        (TORCH, served(plain=(R, "torch"), torch=L), M),
        (TORCH, served(plain=(F, "torch"), torch=L), TORCH),
        (TORCH, served(torch=F), TORCH),
        (TORCH, served(plain=(L, "torch")), M),
    ],
)  # fmt: skip
def test_the_application_that_answers(name, states, answers):
    assert application_of(load_catalog()[name], states) == answers


@pytest.mark.parametrize(
    ("states", "names"),
    [
        (served(plain=(R, "onnx"), torch=R), {M: [M, ONNX], TORCH: [TORCH]}),
        (served(onnx=R, torch=R), {ONNX: [M, ONNX], TORCH: [TORCH]}),
        (served(torch=R, torch_gpu=R), {TORCH: [TORCH], GPU: [GPU]}),
        (served(plain=(R, "torch"), torch=R), {M: [M], TORCH: [TORCH]}),
        ({M: ModelState(L, None)}, {M: [M]}),
    ],
)
def test_the_names_of_an_application_reach_it_and_no_other_does(states, names):
    catalog = load_catalog()
    assert {app: names_of(app, catalog, states) for app in states} == names
    for app, own in names.items():
        assert {application_of(catalog[name], states) for name in own} == {app}


class TwoVariants:
    """A chat model under its own name (as vllm-cpu) and beside it as transformers, and an embedding model."""

    def __init__(self, chat, beside, embeddings):
        self.plain, self.beside = chat.engine, beside.engine
        self.beside.model = f"{CHAT}@transformers"
        servers = {CHAT: chat, f"{CHAT}@transformers": beside, M: embeddings}
        states = {
            CHAT: ModelState(R, "vllm-cpu", since=1.0, replicas=1),
            f"{CHAT}@transformers": ModelState(R, "transformers", since=2.0, replicas=1),
            M: ModelState(R, "onnx", replicas=1),
        }
        self.dispatcher, self.meter = LocalDispatcher(servers, states), MemoryMeter()
        self.services = Services(load_catalog(), self.dispatcher, self.meter)
        self.application = create_application(self.services)


@pytest.fixture
def cluster(chat, embeddings) -> TwoVariants:
    return TwoVariants(chat, at_once(chat_server()), embeddings)


@pytest.fixture
async def client(cluster):
    """The official client."""
    transport = httpx2.ASGITransport(cluster.application, raise_app_exceptions=False)
    async with (
        httpx2.AsyncClient(transport=transport) as http_client,
        openai.AsyncOpenAI(
            api_key="none", base_url="http://medley/v1", max_retries=0, http_client=http_client
        ) as client,
    ):
        yield client


async def answerer(client, model: str) -> str:
    """Who answered, as a client sees it."""
    answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "one two"}])
    return answer.model


async def test_both_names_of_one_model_reach_their_own_replicas(client, cluster):
    assert await answerer(client, CHAT) == CHAT
    assert await answerer(client, f"{CHAT}@vllm-cpu") == CHAT
    made = cluster.plain.tokens_made
    assert made
    assert not cluster.beside.tokens_made
    assert await answerer(client, f"{CHAT}@transformers") == f"{CHAT}@transformers"
    assert cluster.plain.tokens_made == made
    assert cluster.beside.tokens_made


async def test_a_stream_and_a_count_of_tokens_go_to_the_variant_too(client, cluster):
    stream = await client.chat.completions.create(
        model=f"{CHAT}@transformers", messages=[{"role": "user", "content": "one"}], stream=True
    )
    assert {event.model async for event in stream} == {f"{CHAT}@transformers"}
    answer = await client.embeddings.create(model=f"{M}@onnx", input="one two")
    assert answer.model == M


async def test_metrics_are_labelled_with_the_application(client, cluster):
    for model in (CHAT, f"{CHAT}@vllm-cpu", f"{CHAT}@transformers"):
        await answerer(client, model)
    with pytest.raises(openai.InternalServerError):
        await answerer(client, "llama-3.1-8b-instruct")
    with pytest.raises(openai.NotFoundError):
        await answerer(client, f"{CHAT}@nothing")
    assert cluster.meter.total(REQUESTS, CHAT, "chat", "200") == 2
    assert cluster.meter.total(REQUESTS, f"{CHAT}@transformers", "chat", "200") == 1
    labels = {key[1] for key in cluster.meter.values if key[0] == REQUESTS.name}
    assert labels == {CHAT, f"{CHAT}@transformers", "llama-3.1-8b-instruct", "none"}


async def test_a_variant_that_is_not_served_is_a_503_that_names_those_that_are(client, cluster):
    with pytest.raises(openai.InternalServerError) as caught:
        await client.embeddings.create(model=TORCH, input="one")
    assert caught.value.status_code == 503
    assert caught.value.code == "model_not_deployed"
    assert f"{TORCH!r} is known but not deployed" in caught.value.message
    assert f"Of the same model there is {ONNX}." in caught.value.message
    assert cluster.meter.total(ERRORS, TORCH, "embeddings", "model_not_deployed") == 1


async def test_a_plain_name_that_could_mean_several_variants_is_a_503_that_names_them(router, embeddings):
    servers = {TORCH: embeddings, GPU: embeddings}
    async with router(dispatcher=LocalDispatcher(servers, served(torch=R, torch_gpu=R))) as http:
        answer = await http.post("/v1/embeddings", json={"model": M, "input": "one"})
    assert answer.status_code == 503
    assert f"Of the same model there is {TORCH} and {GPU}." in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"{M}@onyx", f"has no variant 'onyx'. It has {ONNX}, "),
        (f"{M}@", f"has no variant ''. It has {ONNX}"),
        (f"{M}@onnx@onnx", "has no variant 'onnx@onnx'"),
        (f"{M}@auto", "each machine decides"),
        ("all-minilm-l6@onnx", f"does not exist. Did you mean {M}"),
        ("@onnx", "does not exist"),
    ],
)
async def test_a_variant_that_the_catalog_does_not_have_is_a_404(client, name, says):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.embeddings.create(model=name, input="one")
    assert says in caught.value.message
    assert caught.value.code == "model_not_found"


async def test_the_list_has_every_application_with_its_variant_and_names(client):
    cards = {model.id: model.model_extra async for model in client.models.list()}
    assert {name: (card["variant"], card["names"]) for name, card in cards.items()} == {
        CHAT: ("vllm-cpu", [CHAT, f"{CHAT}@vllm-cpu"]),
        f"{CHAT}@transformers": ("transformers", [f"{CHAT}@transformers"]),
        M: ("onnx", [M, ONNX]),
    }


async def test_a_model_is_described_under_each_of_its_names(client, open_http, cluster):
    assert (await client.models.retrieve(f"{CHAT}@vllm-cpu")).id == CHAT
    beside = await client.models.retrieve(f"{CHAT}@transformers")
    assert (beside.id, beside.created, beside.model_extra["state"]) == (f"{CHAT}@transformers", 2, "ready")
    async with open_http(cluster.application) as http:
        assert (await http.get(f"/v1/models/{CHAT}%40transformers")).json()["id"] == f"{CHAT}@transformers"
    absent = await client.models.retrieve(TORCH)
    assert (absent.id, absent.model_extra["state"], absent.model_extra["names"]) == (TORCH, "not_deployed", [])


async def test_readiness_lists_every_application(open_http, cluster):
    cluster.dispatcher.become(f"{CHAT}@transformers", ModelState(L, "transformers"))
    async with open_http(cluster.application) as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert {name: one["variant"] for name, one in answer.json()["models"].items()} == {
        CHAT: "vllm-cpu",
        f"{CHAT}@transformers": "transformers",
        M: "onnx",
    }


async def test_a_variant_that_starts_is_waited_for_under_its_name(open_http, cluster):
    cluster.dispatcher.become(f"{CHAT}@transformers", ModelState(L, "transformers", retry_after_s=7))
    body = {"model": f"{CHAT}@transformers", "messages": [{"role": "user", "content": "one"}]}
    async with open_http(cluster.application) as http:
        answer = await http.post("/v1/chat/completions", json=body)
        assert (await http.post("/v1/chat/completions", json=body | {"model": CHAT})).status_code == 200
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert f"{CHAT}@transformers is starting" in answer.text


def test_a_request_without_a_model_gets_the_one_that_goes_by_its_own_name(cluster):
    assert cluster.services.choose(BY_NAME["chat"]).id == CHAT
    cluster.dispatcher.become(CHAT, ModelState(L, "vllm-cpu"))
    assert cluster.services.choose(BY_NAME["chat"]).id == f"{CHAT}@transformers"


async def test_a_model_for_another_task_is_told_one_that_is_served(router, embeddings, assert_error):
    async with router(dispatcher=LocalDispatcher({TORCH: embeddings}, served(torch=R))) as http:
        answer = await http.post("/v1/embeddings", json={"model": CHAT, "input": "one"})
    assert f"such as {TORCH}" in assert_error(answer, 400)["message"]
