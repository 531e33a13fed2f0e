"""The router over fakes, in this process: no Ray, no weights, no sockets.

Ray, the application and the official client are imported where a test wants them: together they cost two seconds."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import jsonschema
import pytest
from clients import http_client, official_client
from replicas import CHAT, EMBEDDINGS, at_once, chat_server, embedding_server
from virtual_time import VirtualLoop, follow_the_loop

from models.catalog import load_catalog
from models.engines.chat_fake import Engine as FakeChat
from models.tasks.chat import GenerationRequest

if TYPE_CHECKING:
    from fastapi import FastAPI

    from deployments.router.dispatch import ModelState
    from deployments.router.services import Services
    from deployments.servers.chat import Server as ChatServer
    from deployments.servers.embeddings import Server as EmbeddingServer
    from deployments.servers.engine import EngineServer

pytest_plugins = ["tiers", "costs"]

# Its limits of time for an example and for drawing one are those of a free machine.
hypothesis.settings.register_profile(
    "medley", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("medley")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What Hypothesis draws follows from the printed seed, too, if there is one and it was not given its own."""
    if hypothesis.core.global_force_seed is None:
        hypothesis.core.global_force_seed = session.config.getoption("randomly_seed", None)


def pytest_asyncio_loop_factories(config: pytest.Config, item: Any) -> Mapping[str, Callable[[], Any]]:
    """A test that asks for `virtual_clock` runs on it, with all its fixtures."""
    if "virtual_clock" in item.fixturenames:
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
def virtual_clock() -> Iterator[None]:
    """The test runs on virtual time (virtual_time.py), the product's modules too."""
    with pytest.MonkeyPatch.context() as patch:
        follow_the_loop(patch)
        yield


@pytest.fixture
def chat_model() -> str:
    return CHAT


@pytest.fixture
def embedding_model() -> str:
    return EMBEDDINGS


@pytest.fixture
def chat() -> ChatServer:
    """The server of a chat model."""
    return at_once(chat_server())


@pytest.fixture
def fake_chat(chat: ChatServer) -> FakeChat:
    """The engine in it."""
    assert isinstance(chat.engine, FakeChat)
    return chat.engine


@pytest.fixture
def embeddings() -> EmbeddingServer:
    """The server of an embedding model."""
    return at_once(embedding_server())


@pytest.fixture
def services(chat: ChatServer, embeddings: EmbeddingServer) -> Services:
    from local_dispatcher import LocalDispatcher

    from deployments.router.services import Services

    return Services(load_catalog(), LocalDispatcher({CHAT: chat, EMBEDDINGS: embeddings}))


@pytest.fixture
def application(services: Services) -> FastAPI:
    from deployments.router.application import create_application

    return create_application(services)


@pytest.fixture
async def http(application: FastAPI):
    async with http_client(application) as client:
        yield client


@pytest.fixture
async def client(application: FastAPI):
    """The official client, as the judge of the API."""
    async with official_client(application) as client:
        yield client


@pytest.fixture
def router(chat: ChatServer, embeddings: EmbeddingServer) -> Callable[..., httpx.AsyncClient]:
    """Makes an HTTP client of a router that differs from `http`: other servers, states of models, or limits."""
    from local_dispatcher import LocalDispatcher

    from deployments.router.application import create_application
    from deployments.router.services import Services

    def make(
        servers: Mapping[str, EngineServer] | None = None, states: Mapping[str, ModelState] | None = None, **limits: Any
    ) -> httpx.AsyncClient:
        everything = {CHAT: chat, EMBEDDINGS: embeddings} | dict(servers or {})
        dispatcher = limits.pop("dispatcher", None) or LocalDispatcher(everything, states)
        return http_client(create_application(Services(load_catalog(), dispatcher, **limits)))

    return make


@pytest.fixture
def post_each() -> Iterator[Callable[..., httpx.Response]]:
    """Posts to an application from a test that is no coroutine, as those are that draw many requests."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        def post(application: FastAPI, path: str, **request: Any) -> httpx.Response:
            async def once() -> httpx.Response:
                async with http_client(application) as http:
                    return await http.post(path, **request)

            return runner.run(once())

        yield post


def draw_cases(api: Any, mode: Any, examples: int, wanted: Callable[[Any], bool]) -> set[tuple[str, str]]:
    """Send drawn requests to each operation of an OpenAPI document, and hold the answers against it. Returns the paths
    and media types that were tried."""
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks

    tried: set[tuple[str, str]] = set()
    for operation in (result.ok() for result in api.get_all_operations()):
        if not wanted(operation):
            continue

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def conforms(case: Any) -> None:
            tried.add((case.path, case.media_type))
            case.call_and_validate(
                checks=[
                    checks.not_a_server_error,
                    checks.content_type_conformance,
                    checks.response_schema_conformance,
                    checks.status_code_conformance,
                ]
            )

        conforms()
    return tried


@pytest.fixture
def hold_to_its_document() -> Callable[..., set[tuple[str, str]]]:
    return draw_cases


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


@pytest.fixture
def recording(recorder: Recorder) -> ChatServer:
    """A server of a chat model around it."""
    return at_once(chat_server(recorder))


OPENAI_API = Path(
    os.environ.get("MEDLEY_OPENAI_API")
    or Path(__file__).resolve().parents[2] / "shared" / "openai-api" / "openapi-subset.json"
)


def without_nullable(node: Any) -> Any:
    """A schema whose `nullable: true`, which JSON Schema does not know, is written as JSON Schema writes it."""
    if isinstance(node, list):
        return [without_nullable(value) for value in node]
    if not isinstance(node, dict):
        return node
    plain = {key: without_nullable(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


@pytest.fixture(scope="session")
def openai_api() -> dict[str, Any]:
    if not OPENAI_API.is_file():
        pytest.skip(f"OpenAI's OpenAPI description is not at {OPENAI_API}; set MEDLEY_OPENAI_API to where it is")
    return without_nullable(json.loads(OPENAI_API.read_text()))


@pytest.fixture(scope="session")
def conforms(openai_api):
    """Checks a document against a schema of OpenAI's description, by the schema's name."""

    def check(name: str, instance: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": openai_api["components"]}
        jsonschema.Draft202012Validator(schema).validate(instance)

    return check
