"""`auto`: which variant is chosen, and when none can be."""

import pytest
from variant_cards import FLOORS, MODEL, card, variant_card

from models import cards
from models.cards import Spread
from models.catalog import load_catalog
from models.choice import choose, made_as
from models.hardware import Hardware, this_hardware
from models.specs import ModelSpec


@pytest.fixture(autouse=True)
def own_cards(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cards, "PUBLISHED", tmp_path / "published")


@pytest.fixture
def slo(tmp_path):
    file = tmp_path / "slo.yaml"
    file.write_text(
        "profiles: {cpu: {tasks: {embeddings: {duration_s: 1, good: 0.99, availability: 0.999}}}, "
        "gpu: {tasks: {embeddings: {duration_s: 1, good: 0.99, availability: 0.999}}}}"
    )
    return file


@pytest.fixture
def spec() -> ModelSpec:
    return load_catalog()[MODEL].model_copy(update={"fidelity": FLOORS, "reference": "torch"})


def refusals(choice):
    return {one.variant: one.refusal for one in choice.candidates}


def test_nothing_measured_means_the_default_and_says_how_to_measure(spec, slo):
    choice = choose(spec, slo)
    assert choice.variant == spec.default_variant
    assert f"medley variant verify {MODEL}" in choice.reason


def test_the_cheapest_that_keeps_floor_and_promise_is_chosen(spec, slo):
    cards.keep(card(variant_card("torch", 0.02), variant_card("onnx", 0.01)))
    choice = choose(spec, slo)
    assert choice.variant == "onnx"
    assert "10 CPU ms a text" in choice.reason
    assert refusals(choice)["torch"] == ""
    assert refusals(choice)["torch-gpu"] == "it was not measured"


def test_a_cheap_one_that_breaks_the_floor_is_not(spec, slo):
    broken = "Cosine is 0.98 and must be at least 0.99"
    cards.keep(card(variant_card("torch", 0.02), variant_card("onnx", 0.01, below_floor=broken)))
    choice = choose(spec, slo)
    assert choice.variant == "torch"
    assert refusals(choice)["onnx"] == broken


def test_a_verdict_by_other_floors_is_not_believed(spec, slo):
    cards.keep(card(variant_card("torch", 0.02), variant_card("onnx", 0.01), floors={"cosine": 0.9}))
    choice = choose(spec, slo)
    assert choice.variant == "torch"  # the reference has no floor to keep
    assert refusals(choice)["onnx"] == "it was measured with other floors; verify it again"


def test_floors_are_the_same_floors_when_a_card_has_rounded_them(spec, slo):
    exact = {"cosine": 0.987654}
    cards.keep(card(variant_card("torch", 0.02), variant_card("onnx", 0.01), floors=exact))
    assert choose(spec.model_copy(update={"fidelity": exact}), slo).variant == "onnx"


def test_a_cheap_one_that_is_too_slow_is_not(spec, slo):
    slow = variant_card("onnx", 0.01)
    slow = slow.model_copy(update={"batches": {**slow.batches, 8: slow.batches[8].model_copy(update={"p95_s": 1.5})}})
    cards.keep(card(variant_card("torch", 0.02), slow))
    choice = choose(spec, slo)
    assert choice.variant == "torch"
    assert refusals(choice)["onnx"] == "duration_s is 1.5 s with 8 at once, and 1 s are promised"


def test_without_any_that_is_fit_it_is_the_default(spec, slo):
    cards.keep(card(variant_card("torch", 0.5)))
    assert choose(spec, slo).variant == spec.default_variant
    assert "no variant keeps" in choose(spec, slo).reason


def test_gpu_seconds_have_their_price(spec, slo, monkeypatch):
    """A tenth of a GPU for 10 ms, and a CPU for as long, cost as much as a CPU for 50 ms."""
    with_gpu = this_hardware().model_copy(update={"gpus": ("a GPU",)})
    monkeypatch.setattr(cards, "this_hardware", lambda: with_gpu)
    for cpu_s, chosen in ((0.045, "torch"), (0.055, "torch-gpu")):
        cards.keep(card(variant_card("torch", cpu_s), variant_card("torch-gpu", 0.01), hardware=with_gpu))
        assert choose(spec, slo).variant == chosen


def test_a_card_of_other_hardware_is_not_believed(spec, slo):
    other = Hardware(cpu="another", cores=96, memory_gib=512)
    cards.keep(card(variant_card("torch", 0.02), variant_card("onnx", 0.01), hardware=other))
    assert choose(spec, slo).card is None


def test_a_variant_that_was_made_otherwise_since_is_not_believed(spec, slo):
    cards.keep(card(variant_card("torch", 0.02), variant_card("onnx", 0.01, made_as="onnx-1")))
    choice = choose(spec, slo)
    assert choice.variant == "torch"
    assert "verify it again" in refusals(choice)["onnx"]
    assert made_as(spec, "onnx") != "onnx-1"


def test_a_published_card_of_this_hardware_counts(spec, slo):
    cards.PUBLISHED.mkdir()
    text = card(variant_card("torch", 0.02), variant_card("onnx", 0.01)).text()
    (cards.PUBLISHED / f"{MODEL}.json").write_text(text)
    assert choose(spec, slo).variant == "onnx"


def test_a_card_of_another_release_is_passed_over(spec, slo):
    cards.keep(card(variant_card("torch", 0.02)))
    (cards.measured_here() / f"{MODEL}.json").write_text('{"model": "x"}')
    assert choose(spec, slo).card is None


def test_a_spread_holds_the_rounds_and_a_margin():
    assert Spread.of([1, 2, 9], 0.1) == Spread(value=2, low=1, high=9)
    assert Spread.of([2, 2, 2], 0.25) == Spread(value=2, low=1.5, high=2.5)
    assert Spread.of([1, 3], 0).value == 2
    assert Spread.of([2], 0.1).holds(2.1)
    assert not Spread.of([2], 0.1).holds(2.3)
