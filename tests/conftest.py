"""The router over fakes, in this process: no Ray, no weights, no sockets."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI

from deployments.router.application import create_application
from deployments.router.dispatch import LocalDispatcher, ModelState
from deployments.router.services import Services
from deployments.servers.batching import LengthBatcher
from deployments.servers.embeddings import EmbeddingServer
from models.catalog import load_catalog
from models.tasks.chat import FakeChat, GenerationRequest
from models.tasks.embeddings import FakeEmbeddings

CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "all-minilm-l6-v2"


class FakeEmbeddingServer(EmbeddingServer):
    """The real server of embedding models around the fake engine, already loaded."""

    def __init__(self):
        self.spec = load_catalog()[EMBEDDINGS]
        self.variant = self.spec.variant(None)
        self.engine = FakeEmbeddings(self.spec.dimensions.native)
        self.batcher = LengthBatcher(self.engine.embed)


@pytest.fixture
def chat_model() -> str:
    return CHAT


@pytest.fixture
def embedding_model() -> str:
    return EMBEDDINGS


@pytest.fixture
def fake_chat() -> FakeChat:
    return FakeChat(CHAT, load_catalog()[CHAT].limits.context_tokens)


@pytest.fixture
def fake_embeddings() -> FakeEmbeddingServer:
    return FakeEmbeddingServer()


@pytest.fixture
def services(fake_chat: FakeChat, fake_embeddings: FakeEmbeddingServer) -> Services:
    return Services(load_catalog(), LocalDispatcher({CHAT: fake_chat, EMBEDDINGS: fake_embeddings}))


@pytest.fixture
def application(services: Services) -> FastAPI:
    return create_application(services)


@pytest.fixture
async def http(application: FastAPI):
    async with http_client(application) as client:
        yield client


@pytest.fixture
async def client(application: FastAPI):
    """The official client, as the judge of the API."""
    transport = httpx2.ASGITransport(application, raise_app_exceptions=False)
    async with (
        httpx2.AsyncClient(transport=transport) as http_client,
        openai.AsyncOpenAI(
            api_key="none", base_url="http://medley/v1", max_retries=0, http_client=http_client
        ) as client,
    ):
        yield client


@pytest.fixture
def router(fake_chat: FakeChat, fake_embeddings: FakeEmbeddingServer) -> Callable[..., httpx.AsyncClient]:
    """Makes an HTTP client of a router that differs from `http`: other servers, states of models, or limits."""

    def make(
        servers: Mapping[str, Any] | None = None, states: Mapping[str, ModelState] | None = None, **limits: Any
    ) -> httpx.AsyncClient:
        everything = {CHAT: fake_chat, EMBEDDINGS: fake_embeddings} | dict(servers or {})
        dispatcher = limits.pop("dispatcher", None) or LocalDispatcher(everything, states)
        return http_client(create_application(Services(load_catalog(), dispatcher, **limits)))

    return make


def http_client(application: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://medley", timeout=30)


@pytest.fixture
def assert_error() -> Callable[..., dict[str, Any]]:
    """Checks that a response is an error in OpenAI's form and returns it."""

    def check(response: httpx.Response, status: int | None = None, code: str | None = None) -> dict[str, Any]:
        assert response.headers["content-type"] == "application/json", response.text[:300]
        document = response.json()
        assert set(document) == {"error"}
        error = document["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert isinstance(error["code"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        assert "Traceback" not in error["message"]
        if status is not None:
            assert response.status_code == status, error
        if code is not None:
            assert error["code"] == code, error
        return error

    return check


class Recorder:
    """A chat model that keeps what it is sent."""

    def __init__(self):
        self.requests: list[GenerationRequest] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self.requests]

    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        self.requests.append(request)
        yield b'{"object": "chat.completion", "choices": []}'

    complete = chat


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
