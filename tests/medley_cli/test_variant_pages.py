"""Cards as tables and pages, and that the published ones are what their figures say."""

import random
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner
from variant_cards import card, variant_card

from medley.main import app
from medley.variants.command import reproduced
from medley.variants.page import page
from medley.variants.tables import fidelity_table, figure, markdown, megabytes, speed_table, with_spread
from models import cards
from models.catalog import load_catalog
from models.choice import made_as
from models.sources import PackagedSource, WheelSource
from workshop.evaluation import evaluation
from workshop.evaluation.evaluation import evaluation_of
from workshop.evaluation.fidelity import below_floor

PUBLISHED = sorted(cards.PUBLISHED.glob("*.json"))


@pytest.fixture
def example():
    spoiled = variant_card(
        "onnx", 0.01, fidelity={"cosine": 0.9}, below_floor="Cosine is 0.9 and must be at least 0.99"
    )
    return card(variant_card("torch", 0.02), spoiled, skipped={"torch-gpu": "It needs a GPU, and there is none here."})


def as_text(table) -> str:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_the_tables_have_every_variant_with_its_figures(example):
    speed, fidelity = as_text(speed_table(example)), as_text(fidelity_table(example))
    assert "torch (reference)" in speed
    assert re.search(r"onnx .*100 \[90, 110\]", speed)
    assert "(≥ 0.99)" in fidelity
    assert "0.9 and must be at least 0.99" in fidelity


def test_the_page_loads_nothing_and_is_the_same_each_time(example):
    first, second = page(example), page(example)
    assert first == second
    assert not re.search(r'(src|href)="(?!#)', first)
    assert first.count("<svg") >= 5
    assert "floor 0.99" in first
    assert "It needs a GPU" in first


def test_what_a_card_says_is_text_on_its_page(monkeypatch):
    monkeypatch.setattr("medley.variants.page.plots_of", lambda card: ["<svg></svg>"])
    shown = page(card(variant_card("torch", 0.02), skipped={"<b>gpu</b>": 'It needs a "GPU" & more.'}))
    assert "&lt;b&gt;gpu&lt;/b&gt;: It needs a &#34;GPU&#34; &amp; more." in shown
    assert "<figure><svg></svg></figure>" in shown


def test_markdown_says_what_measured_it(example):
    text = markdown(example)
    assert "medley variant verify all-minilm-l6-v2" in text
    assert "torch-gpu: It needs a GPU" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows[:4]}) == 1


def test_a_second_run_is_held_against_the_spread_that_the_first_one_stated():
    first = card(variant_card("torch", 0.01), variant_card("onnx", 0.002))
    assert cards.outside(first, first) == ([], 8)
    second = card(variant_card("torch", 0.0105), variant_card("onnx", 0.0024), variant_card("onnx-int8", 0.001))
    found, compared = cards.outside(first, second)
    assert compared == 8  # of what only one run has, nothing can be said
    assert len(found) == 4
    assert all(line.startswith("onnx, batch of") for line in found)
    assert "416.7, and was 500 [450, 550]" in found[0]
    said = reproduced(first, second)
    assert said.startswith("4 of 8 figures lie within the spread of the card of 2026-11-21, not:")


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_a_published_card_is_of_this_catalog_and_its_pages_are_of_it(file: Path, monkeypatch):
    monkeypatch.setattr("medley.variants.page.plots_of", lambda card: ["<svg></svg>\n"])  # compared below
    published = cards.read(file)
    spec = load_catalog()[published.model]
    assert published.text() == file.read_text()
    assert file.with_suffix(".md").read_text() == markdown(published)
    shown, written = page(published), file.with_suffix(".html").read_text()
    assert shown.split("<svg")[0] == written.split("<svg")[0]
    assert shown.split("</svg>")[-1] == written.split("</svg>")[-1]
    assert published.floors == spec.fidelity
    for one in published.variants:
        assert one.made_as == made_as(spec, one.variant), f"{one.variant} is made otherwise now: verify it again"
        assert one.variant == spec.reference_variant or below_floor(spec, one.fidelity) == one.below_floor == ""


def test_a_published_page_has_the_plots_of_its_card():
    """Of one card, by the seed: drawing takes longest."""
    file = random.choice(PUBLISHED)
    plots = re.compile(r"<svg.*?</svg>", re.DOTALL)
    drawn, written = plots.findall(page(cards.read(file))), plots.findall(file.with_suffix(".html").read_text())
    assert all(words(plot) for plot in written)
    assert [words(plot) for plot in drawn] == [words(plot) for plot in written], file


def words(plot: str) -> list[str]:
    """Titles, names and figures of a plot, without their places."""
    return re.findall(r"<text[^>]*>(.*?)</text>", plot)


# Whose row states floors promises variants that keep them. Of these the starter models are measured here: their weights
# are at everybody's hands. A model of the hub is measured by those who run it.
PROMISED = [
    spec for spec in load_catalog().values() if spec.fidelity and isinstance(spec.source, PackagedSource | WheelSource)
]


@pytest.mark.parametrize("spec", PROMISED, ids=lambda spec: spec.id)
def test_a_starter_model_with_floors_has_a_card_with_a_variant_that_is_faster_or_smaller(spec):
    """By a sixth of the throughput, or by a third of the memory or disk."""
    file = cards.PUBLISHED / f"{spec.id}.json"
    assert file in PUBLISHED, f"`medley variant verify {spec.id} --out docs/variants` makes it"
    card = cards.read(file)
    assert any(better(card, one) for one in card.variants)


def test_variants_of_a_task_without_an_evaluation_are_not_compared_and_that_is_said(monkeypatch):
    monkeypatch.setattr(evaluation, "there_is", lambda module: False)
    for command in ("verify", "choose", "show"):
        done = CliRunner().invoke(app, ["variant", command, "all-minilm-l6-v2"])
        assert done.exit_code == 2
        assert done.stderr == (
            "Variants of models for embeddings are not compared: Medley has no evaluation for this task.\n"
        )


def test_the_overview_has_the_figures_of_the_cards():
    overview = (cards.PUBLISHED / "README.md").read_text()
    for file in PUBLISHED:
        assert overview_row(cards.read(file)) in overview, (
            f"{file.stem} is missing, or another: `medley variant verify`"
        )


def overview_row(card: cards.Card) -> str:
    """One line of docs/variants/README.md: the fastest variant beside the reference, with what it costs."""
    reference, measures = card.of(card.reference), evaluation_of(card.task).measures
    others = [one for one in card.variants if one.variant != card.reference and not one.below_floor]
    best = max(others, key=lambda one: one.batches[8].against_reference.value)
    kept = [f"{measures[name].title} {figure(best.fidelity[name], measures[name].unit)}" for name in card.floors]
    assert reference
    cells = [
        f"[{card.model}]({card.model}.md)",
        card.task.name,
        f"{best.variant}, beside {card.reference}",
        with_spread(best.batches[8].against_reference),
        f"{megabytes(best.memory_bytes)}, was {megabytes(reference.memory_bytes)}",
        f"{megabytes(best.disk_bytes)}, was {megabytes(reference.disk_bytes)}",
        ", ".join(kept[:2]),
    ]
    return f"| {' | '.join(cells)} |"


def better(of: cards.Card, one: cards.VariantCard) -> bool:
    reference = of.of(of.reference)
    assert reference
    faster = one.batches[8].against_reference.value > 1.15
    smaller = one.disk_bytes < reference.disk_bytes / 1.5 or one.memory_bytes < reference.memory_bytes / 1.5
    return one.variant != of.reference and (faster or smaller)
