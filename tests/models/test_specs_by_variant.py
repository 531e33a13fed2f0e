"""A model under the name of one of its variants."""

import pytest

from models.catalog import load_catalog

NAMED = [(spec, name) for spec in load_catalog().values() for name in spec.variants]


@pytest.mark.parametrize(("spec", "name"), NAMED, ids=lambda value: getattr(value, "id", value))
def test_a_variant_by_name_is_judged_by_its_models_reference(spec, name):
    """Judged by itself it would always keep its floor."""
    named = load_catalog()[f"{spec.id}@{name}"]
    assert (named.id, named.row, named.default_variant) == (f"{spec.id}@{name}", spec.id, name)
    assert named.reference_variant == spec.reference_variant
    assert named.variant(None) == spec.variant(name)
