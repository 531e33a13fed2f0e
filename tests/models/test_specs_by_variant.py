"""A model under the name of one of its variants, and which numbers keep a floor."""

import pytest

from models.catalog import load_catalog
from models.evaluation.evaluation import Measure

NAMED = [(spec, name) for spec in load_catalog().values() for name in spec.variants]


@pytest.mark.parametrize(("spec", "name"), NAMED, ids=lambda value: getattr(value, "id", value))
def test_a_variant_by_name_is_judged_by_its_models_reference(spec, name):
    """Judged by itself it would always keep its floor."""
    named = load_catalog()[f"{spec.id}@{name}"]
    assert (named.id, named.row, named.default_variant) == (f"{spec.id}@{name}", spec.id, name)
    assert named.reference_variant == spec.reference_variant
    assert named.variant(None) == spec.variant(name)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_floor_is_a_bound_on_the_side_that_is_worse(higher_is_better):
    measure = Measure("title", "means", higher_is_better)
    assert measure.keeps(0.5, 0.5)
    assert measure.keeps(0.6, 0.5) is higher_is_better
    assert measure.keeps(0.4, 0.5) is not higher_is_better
    assert not measure.keeps(float("nan"), 0.5)
