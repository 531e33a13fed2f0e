"""`medley doctor`: the first thing that is wrong, in numbers, and what to do about it."""

import copy
import json

import pytest
import typer
from recorded_cluster import CHAT, EMBEDDINGS, RecordedCluster
from typer.testing import CliRunner

from deployments.router.reach import Reach
from deployments.router.routes import example_of
from medley.local import cluster
from medley.look import doctor
from medley.look.diagnosis import deployment as diagnosis_deployment
from medley.look.diagnosis.order import CHECKS, Check, Verdict, diagnose
from medley.look.diagnosis.patient import Patient
from medley.look.exposition import Scrape, parse
from models.tasks import chat, embeddings

NAMES = [name for name, _ in CHECKS]
COLD_START = (
    'ray_medley_cold_start_seconds{{WorkerId="w1",model="{model}",variant="{variant}",phase="{phase}"}} {value}\n'
)


@pytest.fixture
def recorded(monkeypatch) -> RecordedCluster:
    monkeypatch.setattr(diagnosis_deployment, "weights_missing", lambda spec, variant: "")
    return RecordedCluster()


@pytest.fixture
def look(recorded, tmp_path):
    """All checks of a model."""

    def look(model: str | None = CHAT, processes: int = 3, metrics: str = "", last_start_s: float | None = None):
        scrape = Scrape(recorded.now, {"one": parse(metrics)})
        patient = Patient(
            model, recorded.live(), processes, recorded.client(), scrape, last_start_s, tmp_path, here=tmp_path
        )
        return diagnose(patient)

    return look


def finding(checks: list[Check]) -> Check:
    """The only check that failed. Those before it are ok and have a finding; those after it were not reached."""
    failed = [check.verdict for check in checks].index(Verdict.FAILED)
    assert all(check.verdict is Verdict.OK and check.finding for check in checks[:failed])
    assert all(check.verdict is Verdict.NOT_REACHED for check in checks[failed + 1 :])
    assert checks[failed].next
    return checks[failed]


@pytest.mark.parametrize(
    ("most", "verdict", "remedy"),
    [({"at_most": True}, Verdict.OK, "raise max_replicas"), ({"no_room": True}, Verdict.FAILED, "take a model out")],
)
def test_demand_beyond_what_replicas_serve_has_a_remedy(look, recorded, most, verdict, remedy):
    """The most replicas that may be are no fault: a burst passes."""
    told = recorded.ready["models"][CHAT]
    told["scaling"] = {"wanted": 1, "most": 1, "demand": 2.7, **most}
    check = next(check for check in look() if check.name == "demand")
    assert check.verdict is verdict
    assert check.next.startswith(remedy)
    assert f"{CHAT}: demand 2.7 times what 1 of 1 replica serve" in check.finding
    told["scaling"] = {"wanted": 1, "most": 1, "demand": 0.4}
    assert all(check.verdict is Verdict.OK for check in look())


@pytest.mark.parametrize(("up_to", "verdict"), [(310, Verdict.OK), (None, Verdict.FAILED)])
def test_what_is_too_large_for_the_promise_has_a_remedy(look, recorded, up_to, verdict):
    reach = Reach("tokens of prompt", 16, 8192, up_to, "time_to_first_token_s", 2.5)
    recorded.ready["models"][CHAT]["reach"] = reach.document()
    check = next(check for check in look() if check.name == "promise")
    assert (check.verdict, check.finding) == (verdict, f"It {reach}.")
    assert check.next.startswith(f"a faster variant (`medley variant choose {CHAT}`)")


def test_a_healthy_model_passes_every_check_and_one_real_request(look, recorded):
    checks = look()
    assert [check.name for check in checks] == NAMES
    assert all(check.verdict is Verdict.OK for check in checks)
    assert recorded.asked == [example_of(chat.TASK).for_model(CHAT)]
    assert checks[-1].finding.startswith("Answered after ")
    assert all(check.verdict is Verdict.OK for check in look(EMBEDDINGS))
    assert recorded.asked[-1] == example_of(embeddings.TASK).for_model(EMBEDDINGS)


def test_no_cluster(look, recorded):
    recorded.down = {"serve", "router", "ray", "nodes"}
    check = finding(look(processes=0))
    assert (check.name, check.next) == ("cluster", "`medley up`")


def test_the_dashboard_does_not_answer(look, recorded):
    recorded.down = {"serve"}
    check = finding(look())
    assert check.name == "dashboard"
    assert "8265" in check.finding


def test_serve_does_not_run(look, recorded):
    recorded.serve = {"controller_info": {}, "applications": {}, "http_options": None}
    recorded.down = {"router"}
    check = finding(look())
    assert (check.name, check.next) == ("Serve", "`medley deploy`")


def test_a_name_that_is_not_in_the_catalog(look):
    check = finding(look("smolm2-135m-instruct"))
    assert check.name == "catalog"
    assert f"Did you mean {CHAT}" in check.finding


def test_a_model_that_is_not_deployed_names_the_command_that_deploys_it(look, tmp_path):
    check = finding(look("bge-m3"))
    assert check.name == "deployed"
    assert check.next == "add an application bge-m3 to serve_config.yaml, then `medley deploy`"
    (tmp_path / "serve_config.gpu.yaml").write_text("applications: [{name: bge-m3}]")
    assert "`medley deploy serve_config.gpu.yaml`" in finding(look("bge-m3")).next
    (tmp_path / "serve_config.yaml").write_text("applications: [{name: bge-m3}]")
    assert finding(look("bge-m3")).next == "`medley deploy serve_config.yaml`"


def test_a_variant_is_looked_for_in_the_application_that_serves_it(look, recorded):
    check = finding(look(f"{CHAT}@vllm-cpu"))
    assert (check.name, check.next) == ("deployed", f"`medley doctor {CHAT}`")
    assert "the same variant is served by" in check.finding
    assert "add an application" in finding(look(f"{CHAT}@transformers")).next
    beside = f"{CHAT}@transformers"
    recorded.serve["applications"][beside] = copy.deepcopy(recorded.application(CHAT))
    recorded.application(beside)["deployed_app_config"]["args"] = {"model": beside}
    recorded.ready["models"][beside] = {**recorded.ready["models"][CHAT], "variant": "transformers"}
    assert all(check.verdict is Verdict.OK for check in look(beside))
    assert recorded.asked[-1]["model"] == beside
    assert finding(look(f"{CHAT}@onyx")).name == "catalog"


def test_weights_are_missing(look, recorded, monkeypatch):
    monkeypatch.setattr(diagnosis_deployment, "weights_missing", lambda spec, variant: "They are not here.")
    assert look()[-1].verdict is Verdict.OK  # a replica runs: it has them
    recorded.loads("fetch", since=recorded.now)
    assert finding(look()).name == "start"  # it fetches them
    recorded.loads("load", since=recorded.now)
    check = finding(look())
    assert (check.name, check.finding, check.next) == ("weights", "They are not here.", "`medley fetch`")


def test_the_builder_failed(look, recorded):
    recorded.not_built()
    check = finding(look())
    assert check.name == "built"
    assert "ModuleNotFoundError: No module named 'x'" in check.finding


def test_a_replica_does_not_fit_in_numbers(look, recorded):
    recorded.waits_for_room()
    recorded.free(cpus=1.5, memory_gib=2.1)
    check = finding(look())
    assert check.name == "room"
    assert "One replica needs 4.0 GiB of memory, 2.1 GiB are free of 8.0." in check.finding
    assert "CPU of" not in check.finding.splitlines()[0]  # there are enough of those
    # 0.5 GiB more would not be enough; the variant that needs 1.5 GiB fits.
    assert f"Taking out {EMBEDDINGS} (0.25 CPU, 0.5 GiB) would not be enough." in check.finding
    assert "Its variant transformers would fit: it needs 0.5 CPU, 1.5 GiB." in check.finding


def test_what_would_make_room_and_how_long_it_has_been_idle(look, recorded, tmp_path):
    recorded.waits_for_room()
    recorded.free(cpus=1.5, memory_gib=3.6)
    assert f"Taking out {EMBEDDINGS} (0.25 CPU, 0.5 GiB) would make room." in finding(look()).finding
    line = {"event": "call", "model": EMBEDDINGS, "timestamp_ns": int((recorded.now - 720) * 1e9)}
    (tmp_path / f"replica_{EMBEDDINGS}_model_abc.log").write_text(json.dumps(line) + "\n")
    assert f"{EMBEDDINGS} (0.25 CPU, 0.5 GiB; last call 12 min ago) would make room." in finding(look()).finding
    busy = f'ray_medley_requests_in_flight{{WorkerId="w1",model="{EMBEDDINGS}"}} 2.0\n'
    assert "2 requests are in flight" in finding(look(metrics=busy)).finding


def test_never_asked_is_only_said_where_requests_are_counted(look, recorded):
    recorded.waits_for_room()
    recorded.free(cpus=1.5, memory_gib=3.6)
    counted = 'ray_medley_requests_total{{WorkerId="w1",model="{}",task="chat",status="200"}} 5.0\n'
    assert "no request since the router started" in finding(look(metrics=counted.format(CHAT))).finding
    assert "no request" not in finding(look(metrics=counted.format(EMBEDDINGS))).finding
    assert "no request" not in finding(look()).finding


def test_a_cluster_that_is_too_small(look, recorded):
    recorded.waits_for_room()
    recorded.application(CHAT)["deployed_app_config"]["args"]["variant"] = "vllm"
    recorded.free(cpus=2, memory_gib=8)
    check = finding(look())
    assert "needs 0.1 GPU, 0 GPU are free of 0." in check.finding
    assert "The whole cluster is too small (GPU)." in check.finding
    assert "add a machine" in check.next


def test_a_replica_that_waits_though_there_is_room_is_starting(look, recorded):
    recorded.waits_for_room()
    recorded.free(cpus=1, memory_gib=4)
    assert finding(look()).name == "start"


def test_a_loading_replica_beside_its_usual_cold_start(look, recorded):
    recorded.loads("load", since=recorded.now - 12, fraction=0.5)
    metrics = "".join(
        COLD_START.format(model=CHAT, variant="vllm-cpu", phase=phase, value=seconds)
        for phase, seconds in {"schedule": 2, "import": 9, "load": 31, "warm_up": 2}.items()
    )
    check = finding(look(metrics=metrics))
    assert check.name == "start"
    assert "in the phase load 50 % for 12 s" in check.finding
    assert "That phase took 31 s the last time, a whole start 44 s." in check.finding
    other = COLD_START.format(model=CHAT, variant="transformers", phase="load", value=3)
    assert "the last time" not in finding(look(metrics=other)).finding
    assert "Its last start took 41 s." in finding(look(last_start_s=41)).finding


def test_a_replica_that_keeps_failing_has_cause_remedy_and_last_words(look, recorded, tmp_path):
    recorded.failed(cause="There was not enough memory.", remedy="Free some.")
    error = {
        "levelname": "ERROR",
        "message": "failed in the phase load",
        "timestamp_ns": 1795245663914828733,
        "exc_text": "Traceback (most recent call last):\n  File ...\nMemoryError: cannot allocate 4 GiB",
    }
    (tmp_path / f"replica_{CHAT}_model_abc.log").write_text(json.dumps(error) + "\n")
    check = finding(look())
    assert check.name == "stays alive"
    assert check.finding.startswith("Replicas failed to start 3 times: There was not enough memory.")
    assert check.finding.endswith("MemoryError: cannot allocate 4 GiB")
    assert "another `release`" in check.finding
    assert check.next == "Free some."


def test_attempts_that_failed_come_before_the_attempt_that_is_under_way(look, recorded):
    recorded.loads("load", since=recorded.now, cause="It failed in the phase load.", remedy="Look.")
    check = finding(look())
    assert (check.name, check.next) == ("stays alive", "Look.")
    assert "Serve goes on trying." in check.finding


def test_replicas_that_end_one_after_another(look, recorded):
    recorded.loads("load", since=recorded.now)
    deployed_s = recorded.application()["last_deployed_time_s"]
    dead = recorded.replica() | {"state": "STOPPED", "start_time_s": deployed_s + 5}
    recorded.model()["recent_dead_replicas"] = [dead, dead | {"start_time_s": deployed_s - 100}]
    assert finding(look()).name == "start"  # one may have been taken away
    recorded.model()["recent_dead_replicas"].append(dead)
    check = finding(look())
    assert check.name == "stays alive"
    assert "2 replicas have ended" in check.finding
    recorded.model()["deployment_config"]["autoscaling_config"]["min_replicas"] = 0
    assert finding(look()).name == "start"  # they end when nobody asks


def test_an_upgrade_that_failed_says_that_the_old_version_serves(look, recorded):
    recorded.application()["status"] = "DEPLOY_FAILED"
    recorded.model().update(status="DEPLOY_FAILED", message="The deployment failed to start 3 times in a row: x")
    check = finding(look())
    assert check.name == "stays alive"
    assert "1 of the version before still take requests." in check.finding


def test_unhealthy(look, recorded):
    recorded.application()["status"] = "UNHEALTHY"
    recorded.model().update(status="UNHEALTHY", message="Health check failed.\nEngineDeadError")
    check = finding(look())
    assert check.name == "health"
    assert "EngineDeadError" in check.finding


def test_serve_says_running_and_the_router_does_not(look, recorded):
    recorded.ready["ready"] = False
    recorded.ready["models"][CHAT] |= {"state": "loading", "replicas": 0}
    check = finding(look())
    assert check.name == "router"
    assert "the router says loading" in check.finding
    del recorded.ready["models"][CHAT]
    assert "does not know it" in finding(look()).finding
    recorded.application("router")["status"] = "DEPLOYING"
    assert "The application router is DEPLOYING." in finding(look()).finding


def test_the_edge_does_not_answer(look, recorded):
    recorded.down = {"router"}
    recorded.serve["proxies"]["node-1"]["status"] = "UNHEALTHY"
    check = finding(look())
    assert check.name == "edge"
    assert "http://127.0.0.1:8000" in check.finding
    assert "The proxy of 192.0.2.2 is UNHEALTHY." in check.finding


@pytest.mark.parametrize(
    ("status", "text", "then"),
    [
        (500, "Answered 500", "`medley logs abc123`"),
        (429, "Refused with 429", "`medley top`; more replicas, if it stays so"),
        (422, "Refused with 422", f"a faster variant (`medley variant choose {CHAT}`)"),
    ],
)
def test_the_request_fails(look, recorded, status, text, then):
    recorded.answer = (status, {"x-request-id": "abc123"}, {"error": {"message": "The engine broke."}})
    check = finding(look())
    assert check.name == "request"
    assert check.next.startswith(then)
    assert text in check.finding
    assert "The engine broke." in check.finding


def test_a_model_scaled_to_zero_is_left_asleep(look, recorded):
    recorded.model().update(target_num_replicas=0, replicas=[])
    recorded.ready["models"][CHAT] |= {"state": "scaled_to_zero", "replicas": 0}
    checks = look()
    assert all(check.verdict is Verdict.OK for check in checks)
    assert recorded.asked == []
    assert "would start a replica" in checks[-1].finding


@pytest.fixture
def command(recorded, monkeypatch, tmp_path):
    app = typer.Typer()
    app.command()(doctor.doctor)
    monkeypatch.setattr(cluster, "dashboard", recorded.client)
    monkeypatch.setattr(doctor.httpx, "Client", recorded.client)
    monkeypatch.setattr(cluster, "processes", lambda: [1, 2])
    monkeypatch.setattr(cluster, "logs", lambda: tmp_path)
    monkeypatch.setattr(doctor, "targets", list)
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_without_a_model_all_deployed_ones(command, recorded):
    done = command()
    assert done.exit_code == 0
    assert [line for line in done.output.splitlines() if line and not line.startswith(" ")] == [CHAT, EMBEDDINGS]
    recorded.failed(EMBEDDINGS)
    done = command()
    assert done.exit_code == 1
    assert "FAILED      stays alive" in done.output
    assert "next: Free some." in done.output


def test_for_programs(command, recorded):
    recorded.waits_for_room()
    recorded.free(cpus=0.5, memory_gib=8)
    done = command(CHAT, "--json")
    assert done.exit_code == 1
    (report,) = json.loads(done.output)
    assert (report["model"], report["healthy"]) == (CHAT, False)
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert (verdicts["built"], verdicts["room"], verdicts["request"]) == ("ok", "failed", "not_reached")


def test_nothing_deployed_is_a_finding(command, recorded):
    recorded.serve["applications"] = {}
    recorded.ready = {"ready": False, "models": {}}
    done = command()
    assert done.exit_code == 1
    assert "No model is deployed." in done.output
