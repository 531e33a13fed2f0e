"""Our own OpenAPI document holds, and our answers are what OpenAI's document promises."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis

HTTP_METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def application(shared_application):
    return shared_application


@pytest.fixture
async def document(http) -> dict[str, Any]:
    return (await http.get("/openapi.json")).json()


def test_a_document_that_is_not_openapi_is_noticed(application):
    broken = application.openapi() | {"paths": {"/healthz": {"get": {"responses": 5}}}}
    with pytest.raises(Exception, match="5"):
        schemathesis.openapi.from_dict(broken).validate()


async def test_the_document_is_valid_openapi(document):
    assert document["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_every_route_is_described_with_a_summary_and_a_tag(document):
    operations = {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in HTTP_METHODS
    }
    assert {path for _, path in operations} >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/models/{model}",
        "/healthz",
        "/readyz",
    }
    assert [route for route, operation in operations.items() if not operation.get("summary")] == []
    assert [route for route, operation in operations.items() if not operation.get("tags")] == []


async def test_every_reference_in_the_document_leads_somewhere(document):
    references = set(find_references(document))
    assert "#/components/schemas/ChatCompletionBody" in references
    for reference in references:
        target = document
        for key in reference.removeprefix("#/").split("/"):
            target = target[key]


def find_references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from find_references(value)


def test_an_answer_that_does_not_conform_is_noticed(conforms):
    with pytest.raises(jsonschema.ValidationError):
        conforms("CreateEmbeddingResponse", {"object": "list", "data": [{"object": "embedding"}], "model": "a"})


MESSAGES = [{"role": "user", "content": "one two"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "options",
    [{}, {"n": 2, "max_tokens": 1}, {"logprobs": True}, {"tools": [TOOL], "tool_choice": "required"}],
    ids=str,
)
async def test_a_chat_completion_is_as_openai_describes_it(http, conforms, chat_model, options):
    response = await http.post("/v1/chat/completions", json={"model": chat_model, "messages": MESSAGES} | options)
    conforms("CreateChatCompletionResponse", response.json())


async def test_a_stream_of_a_chat_is_as_openai_describes_it(http, conforms, chat_model):
    body = {"model": chat_model, "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    response = await http.post("/v1/chat/completions", json=body)
    events = response.text.strip().split("\n\n")[:-1]
    assert len(events) == 4
    for event in events:
        conforms("CreateChatCompletionStreamResponse", json.loads(event.removeprefix("data: ")))


async def test_a_text_completion_is_as_openai_describes_it(http, conforms, chat_model):
    response = await http.post("/v1/completions", json={"model": chat_model, "prompt": "one two"})
    conforms("CreateCompletionResponse", response.json())


async def test_embeddings_are_as_openai_describes_them(http, conforms, embedding_model):
    response = await http.post("/v1/embeddings", json={"model": embedding_model, "input": ["one", "two"]})
    conforms("CreateEmbeddingResponse", response.json())


async def test_models_are_as_openai_describes_them(http, conforms, chat_model):
    conforms("ListModelsResponse", (await http.get("/v1/models")).json())
    conforms("Model", (await http.get(f"/v1/models/{chat_model}")).json())


async def test_errors_are_as_openai_describes_them(http, conforms, chat_model):
    for response in [
        await http.get("/nowhere"),
        await http.get("/v1/models/nothing"),
        await http.post("/v1/embeddings", json={}),
        await http.post("/v1/completions", json={"model": chat_model, "prompt": "word " * 9000}),
    ]:
        assert response.status_code in (400, 404)
        conforms("ErrorResponse", response.json())
