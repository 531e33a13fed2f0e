"""Which numbers keep a floor, and which tasks are compared at all."""

import pytest

from models.catalog import load_catalog
from workshop.evaluation.evaluation import Measure, evaluation_of
from workshop.evaluation.fidelity import below_floor

WITH_FLOORS = [spec for spec in load_catalog().values() if spec.fidelity]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_floor_is_a_bound_on_the_side_that_is_worse(higher_is_better):
    measure = Measure("title", "means", higher_is_better)
    assert measure.keeps(0.5, 0.5)
    assert measure.keeps(0.6, 0.5) is higher_is_better
    assert measure.keeps(0.4, 0.5) is not higher_is_better
    assert not measure.keeps(float("nan"), 0.5)


def test_each_measure_below_its_floor_is_named_with_both_figures():
    spec = load_catalog()["all-minilm-l6-v2"].model_copy(update={"fidelity": {"cosine": 0.99, "alone": 0.9}})
    assert below_floor(spec, {"cosine": 0.99, "alone": 0.95, "top5": 0.1}) == ""
    assert below_floor(spec, {"cosine": 0.98, "alone": 0.95}) == "Cosine is 0.98 and must be at least 0.99"
    for missing in ({"alone": 0.95}, {"alone": 0.95, "cosine": float("nan")}):
        assert below_floor(spec, missing) == "Cosine is nan and must be at least 0.99"


def test_who_states_floors_is_judged_by_measures_that_are_explained():
    assert len(WITH_FLOORS) > 5
    for spec in WITH_FLOORS:
        measures = evaluation_of(spec.task).measures
        assert set(spec.fidelity) <= set(measures), spec.id
        assert all(measure.title and measure.means.endswith(".") for measure in measures.values())


@pytest.mark.parametrize("task", ["juggling", "pictures"])  # no module has this name, and one that is no evaluation
def test_a_task_without_an_evaluation_is_refused_in_a_sentence(task):
    with pytest.raises(KeyError, match=f"Variants of models for {task} are not compared: Medley has no evaluation"):
        evaluation_of(task)
