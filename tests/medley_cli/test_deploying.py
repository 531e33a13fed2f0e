"""deploy, plan and rollback against a fake of Serve: what is PUT, when it counts as live, and what is said when not."""

import copy
import errno
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
import yaml
from fake_serve import CHAT, DOCUMENT, EMBEDDINGS, FakeServe, answer, entry, model, replica, status_text, with_release
from patience import patience
from rich.console import Console
from typer.testing import CliRunner

from medley.change import deploy, history, rollout
from medley.local import cluster
from models import choice, weights

# As the fake's controller says.
HERE, ELSEWHERE = "one", "another"

app = typer.Typer()
app.command("plan")(deploy.plan)
app.command("deploy")(deploy.deploy)
app.command("rollback")(deploy.rollback)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(rollout, "POLL_S", 0.01)
    monkeypatch.setattr(rollout, "ROUTER_LAG_S", 0)
    monkeypatch.setattr(weights, "fetch", lambda *_: None)
    return tmp_path / "home"


@pytest.fixture
def serve(monkeypatch):
    """A Serve where the document is deployed."""
    with FakeServe(DOCUMENT).running() as fake:
        monkeypatch.setattr(cluster, "DASHBOARD_PORT", fake.port)
        fake.live = [answer(on(fake, DOCUMENT))]
        yield fake


def on(fake, document):
    """A document whose edge is the fake's port."""
    return document | {"http_options": {"host": "127.0.0.1", "port": fake.port}}


@pytest.fixture
def medley(serve, tmp_path):
    """Runs a command; a document among its arguments is written to a file first. It does not ask, unless it is told to
    or a person answers."""

    def run(*arguments, answered=None, asks=False):
        words = []
        for word in arguments:
            if isinstance(word, dict):
                file = tmp_path / "my_config.yaml"
                file.write_text(yaml.safe_dump(on(serve, word), sort_keys=False))
                words.append(str(file))
            else:
                words.append(str(word))
        if not asks and answered is None and words[0] != "plan" and "--yes" not in words:
            words.append("--yes")
        return CliRunner().invoke(app, words, input=answered)

    return run


def in_between(document, **changes):
    """An answer while the chat model is replaced."""
    live = answer(document)
    live["applications"][CHAT]["status"] = changes.pop("application", "DEPLOYING")
    model(live).update(changes)
    return live


def failed(document, replicas=(), message="Boom: no such file"):
    live = in_between(document, application="DEPLOY_FAILED", status="DEPLOY_FAILED", replicas=list(replicas))
    live["applications"][CHAT]["message"] = "Failed to update the deployments ['model']."
    model(live)["message"] = f"The deployment failed to start 3 times in a row. Error:\n{message}"
    return live


# Nothing is done unless it was asked for.


@pytest.mark.parametrize("words", [("plan",), ("deploy", "--dry-run")])
def test_a_plan_says_what_would_change_and_puts_nothing(medley, serve, home, words):
    result = medley(words[0], with_release("2"), *words[1:])
    assert result.exit_code == 0, result.output
    assert f"! {CHAT}  rolling restart: args.release 1 -> 2\n" in result.output
    assert "free: 0.5 CPU, 20 GiB" in result.output
    assert serve.puts == []
    assert history.entries() == []


def test_a_rollback_that_is_only_tried_puts_nothing(medley, serve):
    history.keep(on(serve, with_release("0")), "start", cluster=HERE)
    history.keep(on(serve, DOCUMENT), "deploy", cluster=HERE)
    result = medley("rollback", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Back to document 1" in result.output
    assert "args.release 1 -> 0" in result.output
    assert serve.puts == []


def test_a_plan_of_the_same_document_says_that_nothing_differs(medley, serve):
    assert "Nothing differs." in medley("plan", DOCUMENT).output


def test_without_a_cluster_it_says_so(medley, serve, monkeypatch):
    monkeypatch.setattr(cluster, "DASHBOARD_PORT", 1)
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert "No cluster answers here. `medley up` starts one." in result.output


# A deploy that goes well.


def test_what_went_live_is_kept(medley, serve):
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 0, result.output
    assert serve.puts == [on(serve, with_release("2"))]
    kept = history.latest_good()
    assert kept.document == on(serve, with_release("2"))
    assert kept.note == "deploy of my_config.yaml"
    assert f"{CHAT}: ready after" in result.output


def test_where_there_is_room_the_new_version_is_put_beside_the_old_and_the_file_is_kept_as_it_was(medley, serve):
    serve.free = status_text(cpus=4)
    assert medley("deploy", with_release("2")).exit_code == 0
    assert entry(serve.puts[0], CHAT)["deployments"][0]["max_surge_percent"] == 100
    assert history.latest_good().document == on(serve, with_release("2"))


OLD, NEW = f"old-{CHAT}", f"new-{CHAT}"
NOT_YET = {
    "it is built": {"application": "DEPLOYING", "replicas": []},
    "the new one starts": {"status": "UPDATING", "replicas": [replica(OLD), replica(NEW, "STARTING")]},
    "an autoscaler hides the upgrade": {
        "application": "RUNNING",
        "status": "UPSCALING",
        "replicas": [replica(OLD), replica(NEW)],
    },
    "an autoscaler hides that none of the new runs": {
        "application": "RUNNING",
        "status": "UPSCALING",
        "replicas": [replica(NEW, "STARTING")],
    },
    "the old one still finishes": {"status": "UPDATING", "replicas": [replica(OLD, "STOPPING"), replica(NEW)]},
}


@pytest.mark.parametrize("case", NOT_YET)
def test_it_waits_until_every_replica_is_of_the_new_version(medley, serve, case):
    document = on(serve, with_release("2"))
    not_yet = [in_between(document, **copy.deepcopy(NOT_YET[case])) for _ in range(3)]
    serve.after_put = [*not_yet, answer(document, "new"), answer(document, "new")]
    assert medley("deploy", with_release("2")).exit_code == 0
    assert len(serve.live) == 1, "it did not look long enough"


def test_an_autoscaler_that_goes_on_working_does_not_hold_up_a_finished_upgrade(medley, serve):
    document = on(serve, with_release("2"))
    scaling = [replica(NEW), replica("newer", "STARTING")]
    serve.after_put = [in_between(document, application="RUNNING", status="UPSCALING", replicas=scaling)]
    assert medley("deploy", with_release("2"), "--patience", patience()).exit_code == 0


def test_it_waits_until_what_was_taken_out_is_gone(medley, serve):
    less = copy.deepcopy(DOCUMENT)
    less["applications"].remove(entry(less, EMBEDDINGS))
    leaving = answer(on(serve, DOCUMENT))
    leaving["applications"][EMBEDDINGS] |= {"status": "DELETING", "deployed_app_config": None}
    serve.after_put = [leaving, leaving, answer(on(serve, less)), answer(on(serve, less))]
    serve.readyz = (200, {"ready": True, "models": {CHAT: {"state": "ready"}}})  # the router lists no leaving model
    assert medley("deploy", less).exit_code == 0
    assert len(serve.live) == 1


def test_it_waits_for_the_router(medley, serve):
    serve.readyz = (503, {"ready": False, "models": {CHAT: {"state": "loading"}, EMBEDDINGS: {"state": "ready"}}})
    result = medley("deploy", with_release("2"), "--patience", 0.1)
    assert result.exit_code == 1
    assert f"Serve says all is ready, and /readyz does not, because of {CHAT}, after" in result.output
    assert history.entries() == []


def test_a_router_that_has_not_heard_of_a_new_model_is_waited_for(medley, serve):
    serve.readyz = (200, {"ready": True, "models": {EMBEDDINGS: {"state": "ready"}}})
    result = medley("deploy", with_release("2"), "--patience", 0.1)
    assert result.exit_code == 1
    assert f"because of {CHAT}, after" in result.output


def test_a_router_that_still_sends_the_variants_name_elsewhere_is_waited_for(medley, serve):
    ready = {"state": "ready", "variant": "vllm-cpu"}
    serve.readyz = (200, {"ready": True, "models": {CHAT: ready, EMBEDDINGS: {"state": "ready", "variant": "torch"}}})
    result = medley("deploy", with_release("2"), "--patience", 0.1)
    assert result.exit_code == 1
    assert f"because of {EMBEDDINGS}, after" in result.output
    ready_now = {"state": "ready", "variant": "onnx"}
    serve.readyz = (200, {"ready": True, "models": {CHAT: ready, EMBEDDINGS: ready_now}})
    assert medley("deploy", with_release("3"), "--patience", patience()).exit_code == 0


def test_a_variant_that_is_left_to_measurements_is_chosen_once_and_put_by_its_name(medley, serve, monkeypatch):
    document = with_release("1")
    entry(document, EMBEDDINGS)["args"]["variant"] = "auto"
    monkeypatch.setattr(choice, "choose", lambda spec: choice.Choice("torch", "it is fast"))
    planned = medley("plan", document).output
    assert f"! {EMBEDDINGS}" in planned
    assert "args.variant onnx -> torch" in planned
    assert "auto -> torch: it is fast\n" in planned
    result = medley("deploy", document, "--yes")
    assert result.exit_code == 0, result.output
    assert "auto -> torch: it is fast\n" in result.output
    assert entry(serve.puts[0], EMBEDDINGS)["args"]["variant"] == "torch"
    assert entry(history.latest_good().document, EMBEDDINGS)["args"]["variant"] == "torch"
    assert "Nothing differs." in medley("plan", document).output
    # Other measurements: only a deploy acts on them, and a rollback brings the variant back that was chosen.
    monkeypatch.setattr(choice, "choose", lambda spec: choice.Choice("onnx", "it is faster now"))
    assert medley("deploy", document, "--yes").exit_code == 0
    assert medley("rollback", "--yes").exit_code == 0
    assert entry(serve.puts[-1], EMBEDDINGS)["args"]["variant"] == "torch"


def test_a_start_says_which_variant_was_chosen(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choice, "choose", lambda spec: choice.Choice("torch", "it is fast"))
    monkeypatch.setattr(deploy, "console", Console(highlight=False, soft_wrap=True))
    serve.live = [answer(None)]
    document = with_release("1")
    entry(document, EMBEDDINGS)["args"]["variant"] = "auto"
    file = tmp_path / "first.yaml"
    file.write_text(yaml.safe_dump(on(serve, document)))
    deploy.start(deploy.read_config(file), patience())
    assert f"{EMBEDDINGS}: auto -> torch: it is fast\n" in capsys.readouterr().out
    assert entry(serve.puts[0], EMBEDDINGS)["args"]["variant"] == "torch"


def test_the_router_is_asked_where_serve_listens_and_not_where_the_file_would_have_it(medley, serve, tmp_path):
    elsewhere = on(serve, with_release("2")) | {"http_options": {"host": "127.0.0.1", "port": 1}}
    file = tmp_path / "elsewhere.yaml"
    file.write_text(yaml.safe_dump(elsewhere))
    here = answer(on(serve, with_release("2")), "new")
    serve.after_put = [here]
    result = medley("deploy", file, "--patience", patience())
    assert result.exit_code == 0, result.output
    assert "http_options differ from what Serve started with (port)" in result.output


def test_phases_of_a_start_are_lines_where_there_is_no_terminal(medley, serve):
    document = on(serve, with_release("2"))
    loading = {"state": "loading", "phase": "warm_up", "fraction": 0.4}
    serve.readyz = (200, {"ready": True, "models": {CHAT: loading, EMBEDDINGS: {"state": "ready"}}})
    serve.after_put = [in_between(document, status="UPDATING")] * 3 + [answer(document, "new")]
    output = medley("deploy", with_release("2")).output
    assert output.count(f"{CHAT}: warm up 40%") == 1


def test_how_long_a_new_replica_took_is_kept_for_the_next_plan(medley, serve, monkeypatch):
    document = on(serve, with_release("2"))
    live = answer(document, "new")
    monkeypatch.setattr(rollout.time, "time", lambda: model(live)["replicas"][0]["start_time_s"] + 42)
    serve.after_put = [live]
    medley("deploy", with_release("2"))
    assert history.cold_starts()[CHAT] == 42
    assert "503 for about 42 s" in medley("plan", with_release("3")).output


def test_a_cluster_that_was_just_started_gets_its_document_and_a_history(serve, tmp_path):
    serve.live = [answer(None)]
    file = tmp_path / "first.yaml"
    file.write_text(yaml.safe_dump(on(serve, DOCUMENT)))
    deploy.start(deploy.read_config(file), patience())
    assert serve.puts == [on(serve, DOCUMENT)]
    assert history.started_with().document == on(serve, DOCUMENT)


@pytest.mark.parametrize("patience_s", ["nan", "inf", "-1"])
def test_a_wait_that_would_never_end_is_refused(medley, serve, patience_s):
    assert medley("deploy", with_release("2"), "--patience", patience_s).exit_code == 2
    assert serve.puts == []


# One writer.


def test_a_second_deploy_says_who_holds_the_lock_and_touches_nothing(medley, serve, home):
    code = "from medley.change.lock import only_writer\nwith only_writer():\n print('held', flush=True)\n input()"
    environment = {**os.environ, "MEDLEY_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        since = json.loads((home / "deploy.holder").read_text())["since"]
        result = medley("deploy", with_release("2"))
        assert result.exit_code == 1
        assert f"Another deploy is under way (process {other.pid}, since {since})" in result.output
        assert serve.puts == []
        assert medley("plan", with_release("2")).exit_code == 0  # looking is free
        other.communicate("\n")
    assert other.returncode == 0
    assert medley("deploy", with_release("2")).exit_code == 0


def test_a_deploy_that_was_killed_holds_nobody_up(medley, serve, home):
    code = "import os\nfrom medley.change.lock import only_writer\nwith only_writer():\n os._exit(9)"
    environment = {**os.environ, "MEDLEY_HOME": str(home)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 9
    assert (home / "deploy.holder").exists()
    assert medley("deploy", with_release("2")).exit_code == 0


def test_what_changed_since_the_plan_is_not_overwritten(medley, serve):
    others = answer(on(serve, with_release("of another")))
    serve.live = [serve.live[0], others]
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert "Another writer changed what is deployed since this plan was made" in result.output
    assert "Run `medley plan` again" in result.output
    assert serve.puts == []


def test_another_writer_during_the_rollout_is_no_success(medley, serve):
    mine, others = on(serve, with_release("2")), on(serve, with_release("of another"))
    serve.after_put = [in_between(mine, status="UPDATING"), answer(others, "new")]
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert "Another writer deployed something else meanwhile" in result.output
    assert history.entries() == []


# A deploy that fails.


def test_a_failed_deploy_says_why_what_serves_and_the_way_back_and_leaves_the_history_alone(medley, serve):
    document = on(serve, with_release("2"))
    history.keep(on(serve, DOCUMENT), "start with serve_config.yaml", cluster=HERE)
    serve.after_put = [in_between(document, status="UPDATING"), failed(document, [replica(OLD)])]
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert (
        f"{CHAT} failed: The deployment failed to start 3 times in a row. Error:\nBoom: no such file" in result.output
    )
    assert "1 of its old replicas still serves." in result.output
    assert f"The others are ready: {EMBEDDINGS}, router." in result.output
    assert "`medley rollback` goes back to document 1 of " in result.output
    assert [one.number for one in history.entries()] == [1]


def test_the_routers_cause_and_remedy_are_said_rather_than_serves_traceback(medley, serve):
    serve.after_put = [failed(on(serve, with_release("2")))]
    told = {"state": "failed", "cause": "its weights are damaged", "remedy": "Run `medley fetch`."}
    serve.readyz = (503, {"ready": False, "models": {CHAT: told}})
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert (
        f"{CHAT} failed: its weights are damaged\nRun `medley fetch`.\nNo replica of {CHAT} serves now."
        in result.output
    )
    assert "Boom" not in result.output
    assert "medley rollback" not in result.output  # nothing to go back to


def test_an_application_that_cannot_be_built_keeps_its_replicas(medley, serve):
    live = in_between(on(serve, with_release("2")), application="DEPLOY_FAILED")
    live["applications"][CHAT] |= {"deployments": {}, "message": "No module named 'x'"}
    serve.after_put = [live]
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert f"{CHAT} failed: No module named 'x'\nThe replicas that {CHAT} had were not stopped." in result.output


def test_the_others_come_up_before_a_failure_is_told(medley, serve):
    serve.free = status_text(cpus=0)
    both = with_release("2", EMBEDDINGS, with_release("2"))
    document = on(serve, both)
    early = failed(document)
    early["applications"][EMBEDDINGS]["status"] = "DEPLOYING"
    serve.after_put = [early, early, failed(document)]
    result = medley("deploy", both)
    assert result.exit_code == 1
    assert f"{EMBEDDINGS}: ready after" in result.output
    assert len(serve.live) == 1


def test_a_model_that_had_failed_before_is_told_apart(medley, serve):
    serve.free = status_text(cpus=0)
    serve.live = [failed(on(serve, DOCUMENT))]
    changed = with_release("2", EMBEDDINGS)
    serve.after_put = [failed(on(serve, changed))]
    result = medley("deploy", changed)
    assert result.exit_code == 1
    assert f"{CHAT} failed (it had failed before, and this deploy does not change it)" in result.output


def test_when_patience_is_over_it_says_what_is_still_under_way(medley, serve):
    history.keep(on(serve, DOCUMENT), "start", cluster=HERE)
    slow = in_between(
        on(serve, with_release("2")), status="UPDATING", replicas=[replica(OLD), replica(NEW, "STARTING")]
    )
    serve.after_put = [slow]
    serve.readyz = (503, {"ready": False, "models": {CHAT: {"state": "loading", "phase": "compile"}}})
    result = medley("deploy", with_release("2"), "--patience", 0.1)
    assert result.exit_code == 1
    assert f"{CHAT}: loading, compile. 1 of its old replicas still serves." in result.output
    assert "`medley rollback`" in result.output
    assert len(history.entries()) == 1


def test_a_document_that_serve_refuses_is_told_in_its_words(medley, serve):
    serve.refusal = "no such thing"
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert "Serve refused my_config.yaml: " in result.output
    assert "no such thing" in result.output
    assert history.entries() == []


# Going back.


@pytest.fixture
def two_documents(serve):
    """A history of two; the second one is deployed."""
    history.keep(on(serve, with_release("good")), "start with serve_config.yaml", cluster=HERE)
    history.keep(on(serve, with_release("better")), "deploy of serve_config.yaml", cluster=HERE)
    serve.live = [answer(on(serve, with_release("better")))]


def released(document):
    return entry(document, CHAT)["args"]["release"]


@pytest.mark.usefixtures("two_documents")
def test_a_rollback_goes_to_the_document_before_the_one_that_is_live(medley, serve):
    result = medley("rollback")
    assert result.exit_code == 0, result.output
    assert "args.release better -> good" in result.output
    assert [released(one) for one in serve.puts] == ["good"]
    assert history.latest_good().note == "rollback to document 1"


@pytest.mark.usefixtures("two_documents")
def test_a_decided_surge_does_not_hide_which_document_is_live(medley, serve):
    model_of_live = serve.live[0]["applications"][CHAT]["deployed_app_config"]["deployments"][0]
    model_of_live["max_surge_percent"] = 100
    medley("rollback")
    assert [released(one) for one in serve.puts] == ["good"]


@pytest.mark.usefixtures("two_documents")
def test_after_a_failed_deploy_a_rollback_goes_to_the_last_good_document(medley, serve):
    serve.after_put = [failed(on(serve, with_release("broken")), [replica(OLD)])]
    assert medley("deploy", with_release("broken")).exit_code == 1
    serve.after_put = []
    result = medley("rollback")
    assert result.exit_code == 0, result.output
    assert "the old replicas that still serve are of this version and stay" in result.output
    assert [released(one) for one in serve.puts] == ["broken", "better"]
    assert len(history.entries()) == 2  # the same document as the last one


@pytest.mark.usefixtures("two_documents")
def test_a_rollback_to_a_number(medley, serve):
    assert medley("rollback", "--to", 2).exit_code == 0
    assert [released(one) for one in serve.puts] == ["better"]
    result = medley("rollback", "--to", 7)
    assert result.exit_code == 1
    assert "Document 7 is not kept. There are: 1, 2." in result.output


def test_without_a_good_document_there_is_no_way_back(medley, serve):
    result = medley("rollback")
    assert result.exit_code == 1
    assert "No document has gone live completely on this cluster yet" in result.output
    history.keep(on(serve, DOCUMENT), "start", cluster=HERE)
    result = medley("rollback")
    assert result.exit_code == 1
    assert "is live, and there is none before it" in result.output
    assert serve.puts == []


@pytest.fixture
def two_clusters(serve):
    """A cluster of last week, and the one that runs; each was started with one document. The second one is deployed."""
    history.keep(on(serve, with_release("last week's")), "start with old.yaml", started=True, cluster=ELSEWHERE)
    history.keep(on(serve, DOCUMENT), "start with serve_config.yaml", started=True, cluster=HERE)


@pytest.mark.usefixtures("two_clusters")
def test_a_rollback_does_not_reach_over_the_end_of_a_cluster(medley, serve):
    result = medley("rollback")
    assert result.exit_code == 1
    assert "document 2 of" in result.output
    assert "there is none before it of this cluster. The last of another cluster is document 1 of" in result.output
    assert "(start with old.yaml): `medley rollback --to 1`." in result.output
    assert serve.puts == []


@pytest.mark.usefixtures("two_clusters")
def test_after_a_deploy_that_failed_another_clusters_document_is_no_way_back_either(medley, serve):
    history.numbered(2).path.unlink()
    serve.after_put = [failed(on(serve, with_release("broken")), [replica(OLD)])]
    result = medley("deploy", with_release("broken"))
    assert result.exit_code == 1
    assert "medley rollback" not in result.output
    serve.puts.clear()
    result = medley("rollback")
    assert "No document has gone live completely on this cluster yet" in result.output
    assert serve.puts == []


@pytest.mark.usefixtures("two_clusters")
def test_another_clusters_document_is_taken_by_its_number_and_said_to_be_of_another(medley, serve):
    result = medley("rollback", "--to", 1)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"Back to document 1 of .*\(start with old.yaml\), by \S+, of another cluster, that was started at .* UTC:",
        result.output,
    )
    assert [released(one) for one in serve.puts] == ["last week's"]
    assert history.latest_good().cluster == HERE


@pytest.mark.usefixtures("two_clusters")
def test_the_documents_there_are_to_go_back_to(medley, serve, monkeypatch, home):
    (home / "history" / "0003-20261121T072811Z-one.yaml").touch()
    lines = medley("rollback", "--list").output.splitlines()
    assert lines[0].endswith("0003-20261121T072811Z-one.yaml is passed over: it is empty.")
    assert [line.split(" of ")[0] for line in lines[1:]] == ["document 2", "document 1"]
    assert lines[1].endswith("of this cluster")
    monkeypatch.setattr(cluster, "DASHBOARD_PORT", 1)
    assert medley("rollback", "--list").exit_code == 0


@pytest.mark.usefixtures("two_documents")
def test_an_empty_newest_document_is_named_and_the_one_before_it_is_taken(medley, serve, home):
    """What a power failure leaves of a file that was never synced."""
    (home / "history" / "0003-20261121T072811Z-one.yaml").touch()
    result = medley("rollback")
    assert result.exit_code == 0, result.output
    assert "0003-20261121T072811Z-one.yaml is passed over: it is empty." in result.output
    assert [released(one) for one in serve.puts] == ["good"]
    assert history.latest_good().number == 4  # not a number that is taken


def test_where_the_history_cannot_be_written_nothing_is_deployed(medley, serve, monkeypatch):
    assert medley("plan", DOCUMENT).exit_code == 0  # the token is there

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert "history cannot be written to: No space left on device. Nothing was done" in result.output
    assert serve.puts == []
    assert history.entries() == []


def test_a_home_that_cannot_be_written_is_said(medley, serve, home):
    home.write_text("a file")
    result = medley("deploy", with_release("2"))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "can be neither read nor made" in result.output or "MEDLEY_HOME cannot be written to" in result.output


# A question, where somebody can answer it.


@pytest.mark.parametrize(("answered", "puts"), [("n\n", 0), ("y\n", 1)])
def test_a_person_is_asked_before_requests_would_notice(medley, serve, monkeypatch, answered, puts):
    monkeypatch.setattr(deploy, "someone_answers", lambda: True)
    result = medley("deploy", with_release("2"), answered=answered)
    assert "Go on?" in result.output
    assert len(serve.puts) == puts
    assert (result.exit_code == 0) is bool(puts)


@pytest.mark.parametrize(
    ("words", "cpus", "terminal"),
    [(("--yes",), 0.5, True), ((), 4, True), (("--yes",), 0.5, False), ((), 4, False)],
    ids=["told not to", "nobody notices", "told not to, in a script", "nobody notices, in a script"],
)
def test_nobody_is_asked_without_need(medley, serve, monkeypatch, words, cpus, terminal):  # noqa: PLR0917
    monkeypatch.setattr(deploy, "someone_answers", lambda: terminal)
    serve.free = status_text(cpus=cpus)
    result = medley("deploy", with_release("2"), *words, asks=True)
    assert result.exit_code == 0, result.output
    assert "Go on?" not in result.output
    assert len(serve.puts) == 1


def without(app):
    less = copy.deepcopy(DOCUMENT)
    less["applications"].remove(entry(less, app))
    return less


@pytest.mark.parametrize("change", [with_release("2"), without(EMBEDDINGS)], ids=["a restart", "a removal"])
def test_a_script_does_not_do_what_requests_would_notice(medley, serve, change):
    result = medley("deploy", change, asks=True)
    assert result.exit_code == 1
    app = CHAT if change["applications"][0]["args"]["release"] == "2" else EMBEDDINGS
    assert f"Requests would notice this ({app}), and there is no terminal to ask in. Nothing was done." in result.output
    assert "--yes" in result.output
    assert f" {app}  " in result.output.split("Requests would")[0]  # the plan
    assert serve.puts == []
    assert history.entries() == []


@pytest.mark.usefixtures("two_documents")
def test_a_rollback_in_a_script_is_refused_likewise(medley, serve):
    result = medley("rollback", asks=True)
    assert result.exit_code == 1
    assert "Back to document 1 of" in result.output
    assert "Nothing was done. With --yes it is done without asking." in result.output
    assert serve.puts == []


@pytest.mark.parametrize(("streams", "there"), [((True, True), True), ((True, False), False), ((False, True), False)])
def test_somebody_answers_who_can_read_the_question(monkeypatch, streams, there):
    stdin, stdout = (SimpleNamespace(isatty=lambda is_one=is_one: is_one) for is_one in streams)
    monkeypatch.setattr(deploy, "sys", SimpleNamespace(stdin=stdin, stdout=stdout))
    assert deploy.someone_answers() is there
