"""slo.yaml: what it promises, and that a mistake in it is refused."""

import re
from pathlib import Path

import pytest

from loadtest.counters import COUNTERS
from medley.monitoring.objectives import objectives
from models.catalog import load_catalog
from models.slo import load_slo
from models.tasks import BY_NAME

SLO = Path(__file__).resolve().parents[2] / "slo.yaml"
TASKS = """\
    tasks:
      chat: {time_to_first_token_s: 1, duration_s: 60, good: 0.99, availability: 0.999}
      embeddings: {duration_s: 1, good: 0.99, availability: 0.999}
"""
SMALL = f"profiles:\n  cpu:\n{TASKS}"


@pytest.fixture
def slo_of(tmp_path):
    """Reads a text as slo.yaml."""

    def read(text: str):
        file = tmp_path / "slo.yaml"
        file.write_text(text)
        return load_slo(file)

    return read


@pytest.mark.parametrize("profile", ["cpu", "cpu-ci", "gpu"])
def test_every_model_of_the_catalog_has_a_promise_that_can_be_measured(profile):
    slo = load_slo(SLO)
    for model, spec in load_catalog().items():
        targets = slo.targets(spec.task, model, profile)
        assert targets.duration_s
        assert (targets.time_to_first_token_s is not None) == (spec.task is BY_NAME["chat"])
    assert objectives(slo, profile)


def test_a_gpu_is_promised_to_be_no_slower_than_two_cores():
    slo = load_slo(SLO)
    for model, spec in load_catalog().items():
        cpu, gpu = (slo.targets(spec.task, model, profile).model_dump() for profile in ("cpu", "gpu"))
        for limit in (name for name in cpu if name.endswith("_s") and cpu[name] is not None):
            assert gpu[limit] <= cpu[limit], (model, limit)


def test_a_model_differs_only_in_what_is_said(slo_of):
    slo = slo_of(SMALL + "    models:\n      smollm2-135m-instruct: {time_to_first_token_s: 0.5}\n")
    mine = slo.targets(BY_NAME["chat"], "smollm2-135m-instruct", "cpu")
    assert slo.targets(BY_NAME["chat"], "smollm2-135m-instruct@vllm", "cpu") == mine
    others = slo.targets(BY_NAME["chat"], "falcon-7b-instruct", "cpu")
    assert (mine.time_to_first_token_s, others.time_to_first_token_s) == (0.5, 1)
    assert (mine.duration_s, mine.good) == (others.duration_s, others.good) == (60, 0.99)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("duration_s: 60", "duration: 60", r"profiles\.cpu\.tasks\.chat\.duration\b.*not permitted"),
        ("duration_s: 60", "duration_s: 0", r"chat\.duration_s.*greater than 0"),
        ("good: 0.99", "good: 99", r"chat\.good.*less than 1"),
        # An alert at 14.4 times a budget of 10 % could never fire.
        ("good: 0.99", "good: 0.9", r"chat\.good.*greater than or equal to 0.95"),
        (", availability: 0.999", "", r"chat\.availability.*required"),
        ("chat:", "chatt:", "chatt"),
        ("profiles:", "profile:", "profile"),
        (TASKS, TASKS + "    models: {smollm: {good: 0.99}}\n", "the catalog has no model 'smollm'"),
        (TASKS, TASKS + "    models: {bge-m3: {goood: 0.99}}\n", "goood"),
        (TASKS, TASKS + "    models: {bge-m3: {good: 0.5}}\n", "good"),
        ("cpu:", "cpu: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_refused_with_its_place(slo_of, old, new, where):
    assert old in SMALL
    with pytest.raises(ValueError, match=f"(?s){where}"):
        slo_of(SMALL.replace(old, new, 1))


def test_the_file_that_the_mistakes_were_made_in_is_right(slo_of):
    assert slo_of(SMALL).targets(BY_NAME["embeddings"], "bge-m3", "cpu").duration_s == 1


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'none.yaml'} cannot be read")):
        load_slo(tmp_path / "none.yaml")


def test_a_profile_or_task_without_a_promise_is_named(slo_of):
    slo = slo_of(SMALL.replace("      embeddings", "#     embeddings"))
    with pytest.raises(KeyError, match="no profile 'tpu'; there are cpu"):
        slo.targets(BY_NAME["chat"], "smollm2-135m-instruct", "tpu")
    with pytest.raises(KeyError, match="promises nothing for embeddings"):
        slo.targets(BY_NAME["embeddings"], "bge-m3", "cpu")


def test_a_limit_that_is_no_bucket_bound_is_refused_with_the_nearest(slo_of):
    slo = slo_of(SMALL.replace("time_to_first_token_s: 1,", "time_to_first_token_s: 3,"))
    with pytest.raises(ValueError, match=r"time_to_first_token_s of chat is 3, .*nearest bound is 2\.5"):
        objectives(slo, "cpu")


def test_a_limit_that_differs_for_a_model_must_be_a_bucket_bound_too(slo_of):
    slo = slo_of(SMALL + "    models:\n      bge-m3: {duration_s: 0.4}\n")
    with pytest.raises(ValueError, match=r"duration_s of embeddings is 0\.4, .*nearest bound is 0\.5"):
        objectives(slo, "cpu")


def test_what_is_not_measured_for_a_task_cannot_be_promised(slo_of):
    with pytest.raises(ValueError, match="time_to_first_token_s cannot be promised for embeddings"):
        slo_of(SMALL.replace("embeddings: {duration_s: 1,", "embeddings: {time_to_first_token_s: 1,"))


@pytest.mark.parametrize("field", ["time_to_first_audio_s", "real_time_factor"])
def test_tasks_without_sound_have_no_promise_about_it(slo_of, field):
    with pytest.raises(ValueError, match=f"{field} cannot be promised for embeddings"):
        slo_of(SMALL.replace("embeddings: {duration_s: 1,", f"embeddings: {{{field}: 1,"))


def test_a_model_cannot_be_promised_what_is_not_measured_for_its_task(slo_of):
    with pytest.raises(ValueError, match="time_to_first_token_s cannot be promised for embeddings"):
        slo_of(SMALL + "    models: {bge-m3: {time_to_first_token_s: 1}}\n")


def test_a_task_without_a_line_has_the_default_as_far_as_it_can_keep_it(slo_of):
    default = "    default: {duration_s: 30, time_to_first_token_s: 3, good: 0.96, availability: 0.99}\n"
    slo = slo_of(SMALL.replace("  cpu:\n", f"  cpu:\n{default}") + "    models: {doodle: {good: 0.97}}\n")
    assert slo.targets(BY_NAME["embeddings"], "bge-m3", "cpu").duration_s == 1
    styles = slo.targets(BY_NAME["styles"], "magenta-styles", "cpu")
    assert (styles.duration_s, styles.time_to_first_token_s, styles.good, styles.availability) == (30, None, 0.96, 0.99)
    doodle = slo.targets(BY_NAME["images"], "doodle", "cpu")
    assert (doodle.duration_s, doodle.good) == (30, 0.97)
    promised = {one.task for one in objectives(slo, "cpu")}
    assert promised == set(BY_NAME)


def test_a_profile_that_promises_nothing_is_refused(slo_of):
    with pytest.raises(ValueError, match="nothing is promised"):
        slo_of("profiles: {cpu: {}}")


def test_what_must_never_happen_is_what_load_tests_count(slo_of):
    assert load_slo(SLO).never == slo_of(SMALL).never == tuple(COUNTERS)
    assert slo_of("never: [lost]\n" + SMALL).never == ("lost",)
    with pytest.raises(ValueError, match=r"never\.0: Input should be 'lost'"):
        slo_of("never: [lst]\n" + SMALL)
