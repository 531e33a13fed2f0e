"""The files for Prometheus and Grafana: that they are up to date, valid, and name only what there is."""

import itertools
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from metrics_tables import buckets_table, metrics_table, others_list
from promql_expressions import expressions
from tables import shown, to_write
from typer.testing import CliRunner

from deployments.telemetry import DISCOVERY_AGE, FIRST_TOKEN, IN_FLIGHT, METRICS, QUEUE_WAIT, REQUESTS, Kind, Metric
from medley.monitoring.alert_tests import Scenario, one_test
from medley.monitoring.command import monitoring
from medley.monitoring.files import files
from medley.monitoring.grafana import dashboard
from medley.monitoring.objectives import objectives, server_errors
from medley.monitoring.panels import rows
from medley.monitoring.prometheus import DROPPED_LABELS, KEPT_SERIES
from medley.monitoring.promql import RAY_SERIES, VLLM_SERIES, gauge_by, names, quantile, rate_by, series, series_in
from medley.monitoring.rules import LIMIT, RECORDING_GROUP, Rule, alerts, recording_rules
from models.catalog import Catalog, load_catalog
from models.slo import Slo, load_slo
from models.tasks import BY_NAME

REPOSITORY = Path(__file__).resolve().parents[2]
SLO = load_slo(REPOSITORY / "slo.yaml")
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")

app = typer.Typer()
app.command()(monitoring)


@pytest.fixture(params=["cpu", "gpu"])
def profile(request) -> str:
    return request.param


@pytest.fixture
def written(tmp_path, profile) -> Path:
    """A folder with the files of a profile."""
    result = CliRunner().invoke(
        app, ["--out", str(tmp_path), "--profile", profile, "--slo", str(REPOSITORY / "slo.yaml")]
    )
    assert result.exit_code == 0, result.output
    return tmp_path


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What it says, errors between the rest, stands in `stdout`."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([str(PROMTOOL), *arguments], cwd=folder, text=True, check=False, **both)


def known_series(profile: str) -> set[str]:
    recorded = {rule.record for rule in recording_rules(objectives(SLO, profile))}
    return {name for metric in METRICS for name in names(metric)} | recorded | {*VLLM_SERIES, *RAY_SERIES}


# The files


def test_the_committed_files_are_what_would_be_written():
    folder = REPOSITORY / "monitoring"
    fresh = files(SLO, "cpu")
    stale = [
        str(name) for name, text in fresh.items() if not (folder / name).exists() or (folder / name).read_text() != text
    ]
    assert stale == [], "run `medley monitoring` and commit what it writes"
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == set(fresh)


def test_the_command_writes_what_files_says(written, profile):
    for name, text in files(SLO, profile).items():
        assert (written / name).read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "tpu"], "there is no profile 'tpu'; there are cpu, cpu-ci, gpu"),
        (["--slo", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_a_mistake_is_refused_in_words(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(REPOSITORY)
    result = CliRunner().invoke(app, ["--out", str(tmp_path), *arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "table"), [("metrics", metrics_table()), ("buckets", buckets_table()), ("others", others_list())]
)
def test_the_tables_of_the_document_are_those_of_the_code(name, table):
    assert shown(REPOSITORY / "docs" / "metrics.md", name, table) == table, to_write(table)


# Prometheus


@needs_promtool
def test_promtool_takes_the_configuration_and_rules(written):
    for arguments in (("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml")):
        result = promtool(written, *arguments)
        assert result.returncode == 0, result.stdout
        assert "duplicate" not in result.stdout


def assert_alerts_pass(*folders: Path) -> None:
    result = promtool(folders[0], "test", "rules", *(str(folder / "alerts_test.yml") for folder in folders))
    assert result.returncode == 0, result.stdout


def write(folder: Path, slo: Slo, profile: str) -> Path:
    folder.mkdir()
    for name in ("rules.yml", "alerts_test.yml"):
        (folder / name).write_text(files(slo, profile)[Path(name)])
    return folder


@needs_promtool
def test_every_alert_fires_and_stops(tmp_path):
    """The profile of the committed file is tested by `make check-k8s` as well."""
    assert_alerts_pass(write(tmp_path / "alerts", SLO, random.choice(list(SLO.profiles))))


@needs_promtool
@pytest.mark.matrix
@pytest.mark.parametrize("profile", list(SLO.profiles))
def test_every_alert_of_every_profile_fires_and_stops(tmp_path, profile):
    assert_alerts_pass(write(tmp_path / "alerts", SLO, profile))


def slo_of_chat(folder: Path, limits: str) -> Slo:
    """A promise for chat alone, which has few rules."""
    file = folder / "slo.yaml"
    file.write_text(f"profiles: {{small: {{tasks: {{chat: {{{limits}good: 0.99, availability: 0.999}}}}}}}}")
    return load_slo(file)


@needs_promtool
def test_a_promise_may_leave_limits_out(tmp_path):
    limits = ["", "duration_s: 600, ", "time_per_output_token_s: 0.1, duration_s: 60, "]
    assert_alerts_pass(
        *(write(tmp_path / str(number), slo_of_chat(tmp_path, one), "small") for number, one in enumerate(limits))
    )


def test_the_alert_tests_leave_no_alert_and_no_promise_out(written, profile):
    tests = yaml.safe_load((written / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert firing == quiet == {alert.name for alert in alerts(objectives(SLO, profile))}
    labels = [expected["exp_labels"] for case in cases for expected in case["exp_alerts"]]
    promised = {(one.get("indicator"), one.get("promise")) for one in labels if "promise" in one}
    assert promised == {tuple(promise.labels.values()) for promise in objectives(SLO, profile)}


def test_all_histories_stand_beside_each_other(written):
    """With a test for each history, which evaluates all rules, work would grow with the square of the promises."""
    tests = yaml.safe_load((written / "alerts_test.yml").read_text())["tests"]
    (alone,) = [
        test for test in tests if "MedleyRouterSilent" in {case["alertname"] for case in test["alert_rule_test"]}
    ]
    (together,) = [test for test in tests if test is not alone]
    models = {
        expected["exp_labels"]["model"] for case in together["alert_rule_test"] for expected in case["exp_alerts"]
    }
    named = [re.search(r'model="([^"]+)"', one["series"]) for one in together["input_series"]]
    assert {one[1] for one in named if one} == models


def test_histories_that_contradict_each_other_are_refused():
    by_name = {alert.name: alert for alert in alerts([])}
    states = {"up": "1x5"}, {"up": "0x5"}
    with pytest.raises(ValueError, match="two histories differ in up"):
        one_test("two", [Scenario("MedleyModelFailed", {}, history, 1, 2) for history in states], by_name)


# What is done to the rules of chat, each in rounds in which one run of promtool shall find all of it, by alert.
WRONG_RULES = [
    {
        "MedleyFirstTokenLate": ('le="2.5"', 'le="5.0"'),  # another limit
        "MedleyModelFailed": ('{state="failed"}', '{state="fialed"}'),
        "MedleyModelLoading": ("for: 15m", "for: 10m"),
        "MedleyRouterSilent": ("absent(", "sum("),
        "MedleyControlPlaneSilent": ("> 30", "> 3000"),
        "MedleyQueueLong": ("histogram_quantile(0.95", "histogram_quantile(0.5"),
        "MedleyRequestsRefused": ('status="429"', 'status="492"'),
        "MedleyRequestsFail": ("engine_failed", "engine_fialed"),
        "MedleyNoRoom": ("(ray_medley_unplaced_replicas)", "(ray_medley_wanted_replicas)"),
        "MedleyDemandUnserved": ("(ray_medley_demand_replicas) >", "(ray_medley_demand_replicas) <"),
    },
    {
        "MedleyFirstTokenLate": ("> 14.4", "> 144"),
        "MedleyModelFailed": ("for: 1m", "for: 2m"),
        "MedleyModelDraining": ("for: 20m", "for: 21m"),
        "MedleyRouterSilent": ("for: 2m", "for: 4m"),
        "MedleyQueueLong": ("> on (model) 0.5", "> on (model) 50"),
        "MedleyRequestsRefused": ("[10m]", "[1h]"),
    },
    {
        # The short window is what makes an alert stop.
        "MedleyFirstTokenLate": ("rate30m{", "rate6h{"),
        "MedleyQueueLong": ("for: 5m", "for: 6m"),
    },
]


@needs_promtool
def test_the_alert_tests_find_a_wrong_rule(tmp_path):
    """All of them in one run of promtool, which names the files that fail, and the alerts."""
    slo = slo_of_chat(tmp_path, "time_to_first_token_s: 2.5, ")
    right = write(tmp_path / "right", slo, "small")
    wrong = {write(tmp_path / f"wrong-{number}", slo, "small"): faults for number, faults in enumerate(WRONG_RULES)}
    for folder, faults in wrong.items():
        rules = (folder / "rules.yml").read_text()
        for old, new in faults.values():
            assert old in rules, old
            rules = rules.replace(old, new)
        (folder / "rules.yml").write_text(rules)
    found = failures(right, *wrong)
    assert right not in found
    for folder, faults in wrong.items():
        assert [faults[alert] for alert in faults if f"alertname: {alert}" not in found[folder]] == []
    names = {alert.name for alert in alerts(objectives(slo, "small"))}
    assert [name for name in names if not any(name.startswith(one) for faults in WRONG_RULES for one in faults)] == []


def failures(*folders: Path) -> dict[Path, str]:
    """What promtool says of each folder whose alerts fail."""
    result = promtool(folders[0], "test", "rules", *(str(folder / "alerts_test.yml") for folder in folders))
    parts = (result.stdout).split("Unit Testing: ")[1:]
    said = {Path(part.split(maxsplit=1)[0]).parent: part for part in parts}
    assert list(said) == list(folders), result.stdout
    return {folder: text for folder, text in said.items() if "FAILED" in text}


def without_each(folder: Path, rules: list[Rule]) -> list[Path]:
    """Copies of the files of the starter cluster, each without one recording rule."""
    document = yaml.safe_load(files(SLO, "cpu")[Path("rules.yml")])
    (recorded,) = [group for group in document["groups"] if group["name"] == RECORDING_GROUP]
    all_of_them = recorded["rules"]
    folders = []
    for number, rule in enumerate(rules):
        folders.append(write(folder / str(number), SLO, "cpu"))
        recorded["rules"] = [one for one in all_of_them if one != rule.document()]
        assert len(recorded["rules"]) == len(all_of_them) - 1
        (folders[-1] / "rules.yml").write_text(yaml.safe_dump(document))
    return folders


# The dashboard reads limits that no alert reads.
READ_BY_ALERTS = [rule for rule in recording_rules(objectives(SLO, "cpu")) if rule.record != LIMIT]
PROMISES = [promise.labels for promise in objectives(SLO, "cpu")]


@needs_promtool
def test_the_alert_tests_miss_a_rule_that_is_not_there(tmp_path):
    (folder,) = without_each(tmp_path, [random.choice(READ_BY_ALERTS)])
    assert folder in failures(folder)


@needs_promtool
@pytest.mark.matrix
@pytest.mark.parametrize("promise", PROMISES, ids=lambda labels: "-".join(labels.values()))
def test_the_alert_tests_miss_any_rule_that_is_not_there(tmp_path, promise):
    folders = without_each(tmp_path, [rule for rule in READ_BY_ALERTS if rule.labels == promise])
    assert set(failures(*folders)) == set(folders)


def test_what_is_scraped_is_all_that_is_asked_for(profile):
    kept = re.compile("|".join(KEPT_SERIES))
    recorded = {rule.record for rule in recording_rules(objectives(SLO, profile))}
    asked = set().union(*(series_in(query.expr) for query in expressions(SLO, profile))) - recorded
    assert asked
    assert {name for name in asked if not kept.fullmatch(name)} == set()
    assert not kept.fullmatch("ray_tasks")


def test_no_label_is_dropped_that_tells_series_apart():
    dropped = re.compile("|".join(DROPPED_LABELS))
    assert dropped.fullmatch("otel_scope_name")
    needed = {"WorkerId", "ReplicaId", "NodeAddress", "le", "ip", "model_name"}
    assert not [label for label in needed.union(*(metric.labels for metric in METRICS)) if dropped.fullmatch(label)]


# Rules and alerts


def test_every_alert_says_what_to_do(profile):
    found = alerts(objectives(SLO, profile))
    assert len({alert.name for alert in found}) == len(found)
    for alert in found:
        assert alert.severity in {"page", "ticket"}
        assert re.fullmatch(r"docs/runbook\.md#[a-z-]+", alert.annotations["runbook_url"])
        assert alert.summary.endswith(".")
        assert len(alert.description) > 60, alert.name


def test_availability_counts_the_errors_that_are_ours():
    codes = set(server_errors().split("|"))
    assert {"engine_failed", "internal_error", "replica_lost", "deadline_exceeded", "model_starting"} <= codes
    assert codes & {"queue_full", "invalid_value", "model_not_found", "model_not_deployed"} == set()
    assert codes & {"too_busy", "at_capacity", "no_room", "beyond_promise"} == set()


def test_a_model_with_a_promise_of_its_own_is_left_out_of_the_tasks():
    found = [one for one in objectives(SLO, "gpu") if one.indicator == "duration"]
    own = [one.model for one in found if one.model]
    assert own
    (of_chat,) = [one for one in found if one.task == "chat" and one.model is None]
    for model in own:
        assert f'model!~"{model}(@.+)?"' in of_chat.requests("5m")
    for one in found:
        if one.model:
            assert f'model=~"{one.model}(@.+)?"' in one.requests("5m")


# PromQL


def test_every_expression_names_only_series_that_there_are(profile):
    known = known_series(profile)
    for query in expressions(SLO, profile):
        assert series_in(query.expr), query
        assert series_in(query.expr) <= known, query
        assert "$" not in query.expr, query


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("ray_medley_request_total", {"ray_medley_request_total"}),
        ('sum by (model, le) (rate(a_bucket{le="1.0",model=~"x|y"}[5m])) / 2e3', {"a_bucket"}),
        (
            "histogram_quantile(0.95, sum by (le) (rate(a:b_c[5m]))) > on (model) 0.5 * (d or on (model) e)",
            {"a:b_c", "d", "e"},
        ),
        ("a and b unless c offset 5m", {"a", "b", "c"}),
        ("absent(up) == bool 1", {"up"}),
        ("a * on (x) group_left (y) b", {"a", "b"}),
        ("sum(a) by (b) + -Inf", {"a"}),
        ('label{x="b and c"}', {"label"}),
    ],
)
def test_series_are_found_in_an_expression(expr, found):
    assert series_in(expr) == found


def test_a_wrong_name_is_found():
    wrong = series_in("sum(rate(ray_medley_request_total[5m]))")
    assert not wrong <= known_series("cpu")


def test_a_histogram_has_no_series_of_its_bare_name():
    assert QUEUE_WAIT.series not in known_series("cpu")


@pytest.mark.parametrize(
    "build",
    [
        lambda: series(REQUESTS, ("code", "=", "x")),
        lambda: rate_by("model, code", REQUESTS),
        lambda: gauge_by("max", "model, phase", IN_FLIGHT),
        lambda: quantile(0.5, FIRST_TOKEN, ("task", "=", "chat")),
        lambda: series(REQUESTS, ("le", "=", "1.0")),
    ],
)
def test_a_label_that_a_metric_does_not_have_is_refused(build):
    with pytest.raises(ValueError, match="has no label"):
        build()


# The dashboard


@pytest.fixture
def board() -> dict:
    return json.loads(files(SLO, "cpu")[Path("grafana/medley.json")])


def test_panels_have_ids_of_their_own_and_do_not_overlap(board):
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for one, other in itertools.combinations([panel["gridPos"] for panel in board["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in board["panels"])


def test_every_panel_has_a_unit_a_description_and_a_query(board):
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 15
    for panel in panels:
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def test_every_panel_follows_the_chosen_models(board):
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "model"]
    for panel in (panel for panel in board["panels"] if panel["type"] != "row"):
        for target in panel["targets"]:
            of_no_model = {*RAY_SERIES, DISCOVERY_AGE.series}
            assert "$model" in target["expr"] or series_in(target["expr"]) <= of_no_model, panel["title"]


def test_a_legend_names_only_labels_that_the_query_keeps(board):
    for panel in (panel for panel in board["panels"] if panel["type"] != "row"):
        for target in panel["targets"]:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, target


def test_latency_is_shown_with_its_limit(board):
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    for indicator in ("time_to_first_token", "time_per_output_token", "duration"):
        assert any("slo_limit" in expr and f'"{indicator}"' in expr for expr in shown)


def shown_series(catalog: Catalog, metrics=METRICS) -> set[str]:
    panels = [panel for row in rows(catalog, metrics) for panel in row.panels]
    return set().union(*(series_in(target.expr) for panel in panels for target in panel.targets))


def test_every_metric_is_shown():
    shown = shown_series(load_catalog())
    tasks = {spec.task for spec in load_catalog().values()}
    served = [metric for metric in METRICS if metric.tasks is None or metric.tasks & tasks]
    assert [metric.name for metric in served if not shown & set(names(metric))] == []


@pytest.mark.parametrize("kind", list(Kind))
def test_a_metric_that_is_new_in_the_table_is_shown_with_its_help(kind):
    new = Metric("medley_new_seconds", kind, "What is new.", ("model",), (1, 2) if kind is Kind.HISTOGRAM else ())
    (row,) = [row for row in rows(load_catalog(), (*METRICS, new)) if row.title == "More"]
    (panel,) = [panel for panel in row.panels if panel.title == new.name]
    assert panel.description == "What is new."
    assert series_in(panel.targets[0].expr) <= set(names(new))


def test_a_metric_of_a_task_that_no_model_has_is_not_shown():
    chat = Catalog(load_catalog().of_task(BY_NAME["chat"]))
    embeddings = Catalog(load_catalog().of_task(BY_NAME["embeddings"]))
    assert f"{FIRST_TOKEN.series}_bucket" in shown_series(chat)
    assert f"{FIRST_TOKEN.series}_bucket" not in shown_series(embeddings)
    titles = {panel["title"] for panel in dashboard(rows(embeddings))["panels"]}
    assert not titles & {"Time to the first token", "Waiting inside vLLM"}
    assert "Queue wait" in titles
