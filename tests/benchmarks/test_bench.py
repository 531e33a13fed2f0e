"""The parts of `make bench`: what it asks of whom, how refusals are counted, and its report."""

import json
import math

import pytest
from aiohttp import web

from benchmarks import load
from benchmarks import run as bench
from benchmarks.commits import document_of_both
from benchmarks.starter import router_of, starter
from models.catalog import load_catalog
from models.engines.cpu_arithmetic import vllm_dtype

LIMITS = {"time_to_first_token_s": 2.5, "time_per_output_token_s": 0.25, "duration_s": 120}


# Whom it asks, and that all compute alike


def test_medley_is_asked_without_promises_and_beside_it_as_it_is_delivered(monkeypatch):
    monkeypatch.setattr(bench, "ray_llm_application", lambda: {"name": "ray-llm"})
    document = bench.whole_document(with_ray_llm=True)
    applications = {one["name"]: one for one in document["applications"]}
    assert {"ray-llm", bench.CHAT, bench.EMBEDDINGS} <= applications.keys()
    ours, delivered = applications["router"], applications[bench.ROUTER_AS_DELIVERED]
    assert (ours["route_prefix"], ours["args"]["promises"]) == ("/", None)
    assert bench.DELIVERED.endswith(delivered["route_prefix"])
    assert delivered["args"]["promises"] == bench.delivered_promises() == "cpu"
    # Nothing else differs, so the models are the same ones.
    assert ours["args"] | {"promises": "cpu"} == delivered["args"]
    assert ours["deployments"] == delivered["deployments"]
    alone = [one["name"] for one in bench.whole_document(with_ray_llm=False)["applications"]]
    assert alone == [one for one in applications if one != "ray-llm"]


def test_benchmarks_of_speed_let_everybody_in(tmp_path):
    assert router_of(starter())["args"]["promises"] is None
    assert [one["name"] for one in starter("doodle")["applications"]] == ["doodle", "router"]
    routers = [one for one in document_of_both(tmp_path)["applications"] if one["name"].startswith("router")]
    assert [one["args"]["promises"] for one in routers] == [None, None]


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", "float32"), ("AVX512", "auto")])
def test_all_servers_have_the_same_arguments_arithmetic_and_environment(monkeypatch, capability, dtype):
    from deployments.servers.chat_vllm import Server

    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    spec, started = load_catalog()[bench.CHAT], []
    variant = spec.variant(None)
    server = object.__new__(Server)
    server.spec, server.variant = spec, variant
    ours = server.llm_config("folder", vllm_dtype(variant))["engine_kwargs"]
    assert ours.pop("enable_logging_iteration_details")  # which admission reads, and the others would write down
    assert (ours["dtype"], ours["enforce_eager"], "long_prefill_token_threshold" in ours) == (dtype, True, True)

    monkeypatch.setattr(bench, "chat_variant", lambda: (variant, "folder"))
    (theirs,) = bench.ray_llm_application()["args"]["llm_configs"]
    assert theirs["engine_kwargs"] == ours

    def running(command, health, env):
        started.append((command, env))
        raise StopIteration

    monkeypatch.setattr(bench, "running", running)
    with pytest.raises(RuntimeError), bench.bare_vllm():  # it is not really started
        pass
    ((command, env),) = started
    assert command[-len(bench.flags(ours)) :] == bench.flags(ours)
    same = bench.same_environment(variant)
    assert theirs["runtime_env"]["env_vars"] == same
    assert same.items() <= env.items()
    assert same | variant.env == same
    assert {"OMP_WAIT_POLICY", "TORCHDYNAMO_DISABLE"} <= same.keys()


def test_arguments_become_words_of_vllm_s_command_line():
    arguments = {"dtype": "auto", "disable_log_stats": False, "enforce_eager": True, "max_num_seqs": 64}
    words = bench.flags(arguments | {"structured_outputs_config": {"backend": "xgrammar"}})
    assert words[:5] == ["--dtype", "auto", "--enforce-eager", "--max-num-seqs", "64"]
    assert words[5:] == ["--structured-outputs-config", '{"backend": "xgrammar"}']


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("ray::ServeReplica:router:router", "router"),
        ("ray::ServeReplica:router-as-delivered:router", "router as delivered"),
        ("ray::ServeReplica:all-minilm-l6-v2:model", "embedding replica"),
        ("ray::ServeReplica:ray-llm:LLMServer", "ray"),
    ],
)
def test_cpu_time_is_of_the_right_router(command, role):
    assert bench.role_of(command) == role


# Refusals


async def test_who_is_refused_comes_back_and_is_timed_from_the_try_that_was_let_in():
    tried = []

    async def send(session, number):
        tried.append(number)
        if tried.count(number) <= number:  # the first is let in at once, the second comes back once, ...
            raise load.Refused(429, 0.0)
        return load.Sample(0.1, 0.2, 2)

    result = await load.run_clients(2, 4, send)
    assert (result.requests, len(result.samples), result.refusals) == (4, 4, 0 + 1 + 2 + 3)
    assert (result.failures, result.turned_away) == (0, 0)
    assert result.good(LIMITS) == 1


async def test_who_is_refused_for_too_long_goes_away_and_what_fails_is_no_refusal():
    async def send(session, number):
        if number == 0:
            raise load.Refused(503, load.PATIENCE_S + 1)
        if number == 1:
            raise AssertionError("500 broken")
        return load.Sample(3.0 if number == 2 else 0.1, 4.0, 20)

    result = await load.run_clients(1, 4, send)
    assert (result.requests, result.refusals, result.turned_away, result.failures) == (4, 1, 1, 1)
    assert result.good(LIMITS) == 0.25


async def test_a_server_that_refuses_everybody_has_figures():
    async def send(session, number):
        raise load.Refused(429, load.PATIENCE_S + 1)

    figures = bench.figures_of(await load.run_clients(2, 3, send))
    assert math.isnan(figures.pop("first_p50"))
    assert math.isnan(figures.pop("first_p99"))
    assert figures == {"rate": 0, "refusals": 3, "turned_away": 3, "failures": 0, "good": 0}


@pytest.mark.parametrize(
    ("sample", "good"),
    [
        (load.Sample(2.4, 10.0, 64), True),
        (load.Sample(2.6, 10.0, 64), False),  # the first token
        (load.Sample(0.1, 20.0, 64), False),  # each token
        (load.Sample(0.1, 121.0, 1000), False),  # the whole
        (load.Sample(0.1, 0.1, 1), True),
    ],
)
def test_an_answer_is_good_if_it_keeps_the_promise(sample, good):
    assert sample.good(LIMITS) is good
    assert bench.promised().keys() <= LIMITS.keys()


@pytest.mark.parametrize(
    ("send", "path"),
    [
        (load.chat_stream, "/v1/chat/completions"),
        (load.chat_whole, "/v1/chat/completions"),
        (lambda url, model, tokens: load.embedding(url, model), "/v1/embeddings"),
    ],
)
@pytest.mark.parametrize(
    ("status", "headers", "refusals", "failures"),
    [(429, {"Retry-After": "0"}, 2, 0), (503, {"Retry-After": "0"}, 2, 0), (429, {}, 0, 2), (500, {}, 0, 2)],
)
async def test_a_refusal_says_when_to_come_back(aiohttp_server, send, path, status, headers, refusals, failures):  # noqa: PLR0917
    """Over HTTP: the first two answers are refusals."""
    seen = []

    async def answer(request):
        seen.append(await request.json())
        if len(seen) <= 2:
            return web.json_response({"error": {"message": "no room"}}, status=status, headers=headers)
        if seen[-1].get("stream"):
            return web.Response(text="data: {}\n\n" * 5, content_type="text/event-stream")
        return web.json_response({"usage": {"completion_tokens": 4}})

    url = await aiohttp_server(path, answer)
    result = await load.run_clients(1, 3, send(url, "m", 4))
    assert (result.refusals, result.failures, result.requests) == (refusals, failures, 3)
    assert len(result.samples) == 3 - failures
    bodies = [json.dumps(body) for body in seen]
    assert (bodies[0] == bodies[1] == bodies[2]) is bool(refusals)  # the same request again


@pytest.fixture
async def aiohttp_server():
    runners = []

    async def started(path, answer):
        application = web.Application()
        application.router.add_post(path, answer)
        runner = web.AppRunner(application)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield started
    for runner in runners:
        await runner.cleanup()


# The report


def test_servers_take_turns_and_the_report_shows_refusals_and_what_was_good(monkeypatch, capsys):
    order, rates = [], {"medley": 40.0, "delivered": 30.0, "vllm": 50.0}

    def measure(clients, requests, send):
        order.append(send)
        result = load.Result([load.Sample(0.1 if send != "delivered" else 9.0, 9.5, int(rates[send]))], 1.0)
        result.refusals, result.turned_away = (7, 1) if send == "delivered" else (0, 0)
        return result

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(load, "chat_stream", lambda url, model, tokens: url)
    chat = bench.chat_rounds({name: name for name in rates}, 2, crowds=((8, 24),))
    assert order == ["medley", "delivered", "vllm", "vllm", "delivered", "medley"]
    used = {"cpu_ms": {"router": 1.0}, "cpu_ms_total": 1.0, "per_s": 9, "p50_ms": 1, "p99_ms": 2}
    report = {"date": "2030-01-01", "machine": "a machine", "command": "c", "arguments": {"dtype": "float32"}}
    report |= {"chat": chat, "promised": LIMITS, "embeddings": used, "chat_whole": used}
    report |= {"no_model": {"medley": [{"p50_ms": 1, "p99_ms": 2}]}, "medley_ready_s": 58.0}
    page = bench.as_markdown(json.loads(json.dumps(report)))  # as it is read again
    assert "| 8 | medley | 40.0 | 0.800 | 100.0 | +0.0 | 100.0 | 0 | 0 | 0 | 100% |" in page
    assert "| 8 | delivered | 30.0 | 0.600 | 9000.0 | +8900.0 | 9000.0 | 14 | 2 | 0 | 0% |" in page
    assert "| 8 | vllm | 50.0 | 1.000 |" in page
    assert '`{"dtype": "float32"}`' in page
    assert page.count("\n| 8 |") == 3
    heads = next(line for line in page.splitlines() if line.startswith("| clients"))
    assert {len(line.split("|")) for line in page.splitlines() if line.startswith("|")} == {len(heads.split("|"))}
