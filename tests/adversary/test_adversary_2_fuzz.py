"""Requests that are drawn for minutes, for every endpoint and header: no failure, and every error in OpenAI's form.

MEDLEY_FUZZ_S is how long, in seconds. Half of it goes to a grammar of requests, half to schemathesis."""

import itertools
import json
import os
import time
from collections import Counter
from pathlib import Path

import grammar
import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from judging import faults_of, faults_of_answer
from lasting import lasting
from schemathesis import checks
from schemathesis.core.result import Ok
from sending import Answer, Exchange, Request, exchange

from medley.local import cluster as local

pytestmark = pytest.mark.adversary

BUDGET_S = float(os.environ.get("MEDLEY_FUZZ_S", "600"))
# Requests of one batch. Time is looked at between batches, so that a failing one can be shrunk in peace.
BATCH = 12
FAILING = Path(__file__).parents[2] / "build" / "adversary"
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.fixture
def all_awake(cluster):
    """Models that sleep are started: a model that is not up has few faults."""
    with httpx.Client(base_url=cluster.address, timeout=300, trust_env=False) as http:
        for endpoint in grammar.endpoints():
            answer = http.post(
                endpoint.path, json=grammar.examples(endpoint)[0] | {"model": grammar.model_of(endpoint)}
            )
            assert answer.status_code == 200, f"{endpoint.path}: {answer.text}"


@pytest.fixture
def nothing_ends(cluster, all_awake):
    """No process of the cluster ends meanwhile, and it is ready afterwards."""
    before = lasting()
    time.sleep(2)
    before = {process: name for process, name in before.items() if local.lives(process)}
    yield
    assert [name for process, name in before.items() if not local.lives(process)] == []
    assert httpx.get(f"{cluster.address}/readyz", trust_env=False).status_code == 200


def test_requests_of_a_grammar_are_answered_or_refused(cluster, seed, nothing_ends):
    found, statuses = Faults(), Counter[int]()

    def batch(name, drawn, number):
        @settings(number)
        @hypothesis.given(drawn)
        def answered(request: Request) -> None:
            came = exchange(cluster.address, request)
            statuses.update(answer.status for answer in came.answers)
            if faults := faults_of(request, came):
                raise AssertionError(f"{faults}\n{found.kept(name, request.raw)}")

        found.of(name, number, answered)

    in_turns(grammar.sources(), seed, BUDGET_S / 2, batch)
    print(f"\nseed {seed}: {statuses.total()} answers of the grammar, by status {dict(sorted(statuses.items()))}")
    found.must_be_none()


def test_requests_of_schemathesis_are_answered_or_refused(cluster, seed, nothing_ends):
    document = httpx.get(f"{cluster.address}/openapi.json", trust_env=False).json()
    api = schemathesis.openapi.from_dict(with_models(document))
    found, statuses = Faults(), Counter[int]()

    def batch(name, operation, number):
        mode = POSITIVE if operation.method == "get" else (POSITIVE, NEGATIVE)[number % 2]  # there is no wrong GET

        @settings(number)
        @hypothesis.given(operation.as_strategy(generation_mode=mode))
        def answered(case) -> None:
            deadline = {"X-Deadline": str(grammar.DEADLINE_S)}
            response = case.call(base_url=cluster.address, headers=deadline, timeout=300, allow_redirects=False)
            statuses[response.status_code] += 1
            sent = f"{case.method.upper()} {name}\r\nX-Deadline: 1\r\n\r\n".encode()
            headers = {key.lower(): values[0] for key, values in response.headers.items()}
            answer = Answer(response.status_code, headers, response.content)
            if faults := faults_of_answer(Request(name, sent), answer, Exchange([answer], True, False, 0)):
                raise AssertionError(f"{faults}\n{case.as_curl_command()[:20_000]}")
            if response.status_code not in (408, 429, 431, 503):  # those come from before the endpoint
                case.validate_response(response, checks=CHECKS)

        found.of(name, number, answered)

    described = [result.ok() for result in api.get_all_operations() if isinstance(result, Ok)]
    operations = {f"{one.method} {one.path}": one for one in described}
    in_turns(operations, seed, BUDGET_S / 2, batch)
    print(f"\nseed {seed}: {statuses.total()} answers to schemathesis, by status {dict(sorted(statuses.items()))}")
    found.must_be_none()


CHECKS = [
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
]


def settings(number: int):
    """Of one batch, which its number repeats."""
    chosen = hypothesis.settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
        report_multiple_bugs=False,
        print_blob=True,
    )
    return lambda function: hypothesis.seed(number)(chosen(function))


def in_turns(sources, seed: int, seconds: float, batch) -> None:
    """Batches from each source in turn, until the time is over; each source has at least one."""
    end = time.monotonic() + seconds
    for turn in itertools.count():
        for name, source in sources.items():
            if turn and time.monotonic() > end:
                return
            batch(name, source, seed * 1000 + turn)


class Faults:
    """What went wrong, once for each source."""

    def __init__(self):
        self.found: dict[str, str] = {}

    def of(self, name: str, number: int, answered) -> None:
        if name in self.found:
            return  # it would be found and shrunk again
        try:
            answered()
        except Exception as error:
            self.found[name] = f"batch {number}: {type(error).__name__}: {error}"
            print(f"\n{name}: {self.found[name][:2000]}", flush=True)

    def kept(self, name: str, raw: bytes) -> str:
        """The bytes of a failing request in a file; `nc` sends them again."""
        FAILING.mkdir(parents=True, exist_ok=True)
        file = FAILING / f"{name.strip('/').replace('/', '-')}.http"
        file.write_bytes(raw)
        return f"{raw[:1500]!r}\nnc 127.0.0.1 8000 < {file}"

    def must_be_none(self) -> None:
        assert not self.found, "\n\n".join(f"{name}: {what[:6000]}" for name, what in self.found.items())


def with_models(document: dict) -> dict:
    """The API's description, in which `model` is one that runs and can do what is asked."""
    names = {"Chat": "chat", "Completion": "chat", "Upscale": "upscaling", "Style": "styles"}
    names |= {"Edit": "images", "Generation": "images", "Variation": "images", "Embedding": "embeddings"}
    for name, schema in document["components"]["schemas"].items():
        if "model" in schema.get("properties", {}):
            task = next((task for start, task in names.items() if name.startswith(start)), None)
            ids = [grammar.MODELS[task]] if task else list(grammar.MODELS.values())
            schema["properties"]["model"] = {"type": "string", "enum": ids}
    return json.loads(json.dumps(document))
