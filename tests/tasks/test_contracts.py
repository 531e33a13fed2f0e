"""What a task's contract says holds: its settings, its samples, what it counts, what is found by its name."""

import logging
from pathlib import Path

import pytest
import yaml
from endpoints import endpoints
from pydantic import ValidationError
from replicas import started
from small_models import small_model

from deployments.metering import MemoryMeter
from deployments.model import server_class
from deployments.router.routes import example_of
from deployments.telemetry import BATCH_SIZE, COUNTERS, DURATION, METRICS, REQUESTS
from models.catalog import FOLDER, load_catalog
from models.registry import backends_of, engine_class
from models.slo import LIMITS, load_slo
from models.specs import Backend, ModelSpec
from models.tasks import TASKS
from models.tasks.methods import Unary
from models.tasks.usage import NOTHING

REPOSITORY = Path(__file__).resolve().parents[2]
SLO = load_slo(REPOSITORY / "slo.yaml")

of_each_task = pytest.mark.parametrize("task", TASKS, ids=str)


def test_names_are_different_and_fit_into_paths_and_labels():
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert [task.name for task in TASKS if not task.name.isidentifier() or not task.name.islower()] == []


@of_each_task
def test_there_is_a_fake_engine_a_server_and_a_row(task):
    assert Backend.FAKE in backends_of(task)
    for backend in backends_of(task):
        server_class(task, backend)
    assert load_catalog().of_task(task)


@of_each_task
def test_every_row_of_its_file_has_its_settings(task):
    rows = yaml.safe_load((FOLDER / f"{task}.yaml").read_text())["models"]
    assert rows
    for row in rows:
        spec = ModelSpec.model_validate(row)
        assert spec.task is task
        assert task.settings_of(spec) is spec.settings


@of_each_task
def test_a_setting_that_there_is_not_is_refused_where_it_stands(task):
    row = small_model(task).model_dump(mode="json")
    row["settings"] = {**row["settings"], "nonsense": 1}
    with pytest.raises(ValidationError) as refused:
        ModelSpec.model_validate(row)
    (error,) = refused.value.errors()
    assert (error["loc"], error["type"]) == (("settings", "nonsense"), "extra_forbidden")


@of_each_task
def test_a_row_survives_being_written_down(task):
    spec = small_model(task)
    assert ModelSpec.model_validate(spec.model_dump(mode="json")) == spec


@of_each_task
def test_settings_of_a_model_for_something_else_are_refused(task):
    other = next(small_model(one) for one in TASKS if one is not task and one.settings is not task.settings)
    with pytest.raises(TypeError, match=f"not for {task}"):
        task.settings_of(other)


@of_each_task
async def test_its_samples_go_through_methods_of_its_own_and_are_answered(task):
    spec = small_model(task)
    server = await started(spec)
    asks = task.sample(task.settings_of(spec))
    assert asks
    for ask in asks:
        assert ask.method in task.methods
        assert isinstance(ask.request, ask.method.request)
        handled = server.handler(ask.method.name)(ask.request)
        items = [await handled] if isinstance(ask.method, Unary) else [item async for item in handled]
        assert any(isinstance(item, ask.method.result) for item in items)


@of_each_task
def test_its_methods_have_names_of_their_own(task):
    assert len({method.name for method in task.methods}) == len(task.methods)
    assert any(not method.lookup for method in task.methods)


@of_each_task
async def test_what_it_counts_is_used_measured_and_written_down(task, http, everything, caplog):
    """Of its example: usage, metrics and the line of log have an amount for each count."""
    caplog.set_level(logging.INFO, "ray.serve.access")
    example, spec = example_of(task), small_model(task)
    if example is None:
        pytest.skip(f"{task} has no endpoint of its own")
    meter: MemoryMeter = everything.state.services.meter
    labels = {count: (spec.id, task.name, *([count.value] if count.value else [])) for count in task.counts}
    before = {count: meter.total(COUNTERS[count.counter], *labels[count]) for count in task.counts}
    asked = meter.total(REQUESTS, spec.id, task.name, "200"), meter.total(DURATION, spec.id, task.name)
    response = await http.post(example.path, json=example.for_model(spec.id))
    assert response.status_code == 200, response.text
    (line,) = [one for one in caplog.records if getattr(one, "event", None) == "request"]
    for count in task.counts:
        amount = meter.total(COUNTERS[count.counter], *labels[count]) - before[count]
        assert amount > 0, count
        assert getattr(line, count.name) == pytest.approx(amount)
    now = meter.total(REQUESTS, spec.id, task.name, "200"), meter.total(DURATION, spec.id, task.name)
    assert now == (asked[0] + 1, asked[1] + 1)
    assert (line.task, line.model) == (task.name, spec.id)


@of_each_task
async def test_whether_it_has_a_batch_size_is_true(task):
    spec, meter = small_model(task), MemoryMeter()
    await started(spec, meter=meter)
    assert (meter.total(BATCH_SIZE, spec.id) > 0) == task.batched


@of_each_task
def test_its_metrics_are_in_the_table(task):
    of_it = {metric for metric in METRICS if metric.tasks is None or task.name in metric.tasks}
    assert {COUNTERS[count.counter] for count in task.counts} <= of_it


@of_each_task
@pytest.mark.parametrize("profile", sorted(SLO.profiles))
def test_something_is_promised_that_it_can_keep(task, profile):
    targets = SLO.profile(profile).of_task(task)
    assert targets is not None
    assert targets.duration_s
    assert {limit for limit in LIMITS if getattr(targets, limit) is not None} <= set(task.promises)


@of_each_task
async def test_the_card_of_a_model_has_its_example_and_the_task(task, http):
    card = (await http.get(f"/v1/models/{small_model(task).id}")).json()
    example = example_of(task)
    assert card["task"] == task.name
    assert card["example"] == (None if example is None else {"path": example.path, "body": example.body})
    assert not {"model"} & set(example.body if example else ())


@of_each_task
def test_its_example_is_of_an_endpoint_that_takes_it(task):
    example = example_of(task)
    assert example is None or (example.path, task) in {(one.path, one.task) for one in endpoints()}


@of_each_task
def test_its_fake_is_loaded_like_every_engine(task):
    spec = small_model(task)
    engine = engine_class(task, Backend.FAKE)
    assert isinstance(engine.load(spec, spec.variant(None), Path()), engine)


def test_nothing_used_is_nothing_counted():
    assert [NOTHING[count] for task in TASKS for count in task.counts] == [0] * sum(len(task.counts) for task in TASKS)
