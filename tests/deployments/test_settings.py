import pytest
from pydantic import ValidationError

from deployments.settings import ModelArgs, RouterArgs
from models import choice
from models.catalog import load_catalog
from models.errors import ModelNotFound


def test_a_model_without_a_variant_is_its_default_one():
    args = ModelArgs(model="all-minilm-l6-v2")
    assert args.variant_name == "onnx"
    assert args.variant_spec is args.spec.variants["onnx"]


def test_a_variant_is_the_one_that_is_named():
    args = ModelArgs(model="all-minilm-l6-v2", variant="torch")
    assert args.variant_name == "torch"
    assert args.variant_spec is args.spec.variants["torch"]


def test_an_unknown_model_is_refused_with_the_nearest_names():
    with pytest.raises((ValidationError, ModelNotFound), match="Did you mean all-minilm-l6-v2"):
        ModelArgs(model="all-minilm")


def test_an_unknown_variant_is_refused_with_those_there_are():
    names = ", ".join(sorted(load_catalog()["all-minilm-l6-v2"].variants))
    with pytest.raises(ValidationError, match=f"has no variant 'gpu'; it has {names}"):
        ModelArgs(model="all-minilm-l6-v2", variant="gpu")


def test_a_model_may_be_named_with_its_variant():
    for args in (
        ModelArgs(model="all-minilm-l6-v2@torch"),
        ModelArgs(model="all-minilm-l6-v2@torch", variant="torch"),
    ):
        assert (args.spec.id, args.spec.row, args.variant_name) == (
            "all-minilm-l6-v2@torch",
            "all-minilm-l6-v2",
            "torch",
        )
        assert args.variant_spec is args.spec.variants["torch"]


@pytest.mark.parametrize("variant", ["onnx", "auto", ""])
def test_a_name_with_a_variant_takes_no_other(variant):
    with pytest.raises(ValidationError, match="all-minilm-l6-v2@torch names its variant"):
        ModelArgs(model="all-minilm-l6-v2@torch", variant=variant)


@pytest.mark.parametrize("name", ["all-minilm-l6-v2@auto", "all-minilm-l6-v2@", "all-minilm-l6-v2@onyx", "x@onnx"])
def test_a_name_that_is_no_variants_is_refused(name):
    with pytest.raises(ModelNotFound):
        ModelArgs(model=name)


def test_auto_is_the_variant_that_is_chosen_and_settles_to_it(monkeypatch):
    monkeypatch.setattr(choice, "chosen_variant", lambda spec: {"all-minilm-l6-v2": "torch"}[spec.id])
    args = ModelArgs(model="all-minilm-l6-v2", variant="auto")
    assert (args.variant, args.variant_name) == ("auto", "torch")
    assert args.variant_spec is args.spec.variants["torch"]
    settled = args.settled()
    monkeypatch.undo()
    assert (settled.variant, settled.variant_name, settled.spec.id) == ("torch", "torch", "all-minilm-l6-v2")


@pytest.mark.parametrize("kind", [ModelArgs, RouterArgs])
def test_an_unknown_argument_is_refused_by_name(kind):
    with pytest.raises(ValidationError, match="varient"):
        kind.model_validate({"model": "all-minilm-l6-v2", "varient": "onnx"})


@pytest.mark.parametrize("name", ["body_limit_mib", "deadline_s", "discovery_interval_s"])
@pytest.mark.parametrize("value", [0, -1, "soon", None])
def test_a_limit_of_the_router_that_means_nothing_is_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        RouterArgs.model_validate({name: value})


def test_the_router_needs_no_arguments():
    args = RouterArgs.model_validate({})
    assert args.body_limit_mib == 8
    assert args.deadline_s == 600


@pytest.mark.parametrize("args", [ModelArgs(model="all-minilm-l6-v2"), RouterArgs()])
def test_arguments_cannot_be_changed(args):
    with pytest.raises(ValidationError, match="frozen"):
        args.release = "2"
