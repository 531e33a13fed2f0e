"""`medley variant build`, `verify`, `choose` and `show`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medley.look.screen import print_json, screen
from medley.variants.tables import choice_table, fidelity_table, markdown, speed_table
from models import cards, weights
from models.catalog import load_catalog
from models.choice import choose
from models.errors import ModelNotFound
from models.specs import ModelSpec
from workshop.evaluation.evaluation import evaluation_of
from workshop.evaluation.fidelity import FidelityBelowFloor, judge
from workshop.evaluation.measuring import measure
from workshop.evaluation.trial import TrialFailed

app = typer.Typer(no_args_is_help=True, help="Build, verify and choose between the variants of a model.")

FAILED, WRONG = 1, 2

Model = Annotated[str, typer.Argument(help="an id of the catalog")]
Json = Annotated[bool, typer.Option("--json", help="for programs")]


@app.command()
def build(
    model: Model,
    to: Annotated[str, typer.Option(help="the variant")],
    again: Annotated[bool, typer.Option("--again", help="make it again, even if it is there")] = False,
) -> None:
    """Make a variant's files: export, quantize, compare with the reference, and publish them on this machine.

    Steps that were finished before are not repeated. If its answers differ too much from the reference's, the
    variant is thrown away, with exit code 1.
    """
    with in_words():
        spec, variant = model_and_variant(model, to)
        if again and variant.artifact:
            weights.discard(spec, variant)
        with steps() as report:
            folder = weights.fetch(spec, variant, report)
            found = None if weights.needs_judging(spec, variant) else judged_now(spec, to, folder, report)
    out = screen()
    out.print(f"{model}@{to} is in {folder}")
    for name, facts in weights.manifest_of(folder).items():
        out.print(f"  {facts['sha256'][:16]}  {facts['bytes'] / 1e6:8.2f} MB  {name}", markup=False)
    found = found if found is not None else weights.fidelity_of(folder)
    out.print("  " + ("; ".join(f"{name} {value:.4g}" for name, value in found.items()) or "not compared"))
    try:
        evaluation_of(spec.task)
    except KeyError as error:
        out.print(error.args[0], markup=False)
    else:
        out.print(f"`medley variant verify {model} --variant {to}` measures what it takes.")


@app.command()
def verify(  # noqa: PLR0917
    model: Model,
    variant: Annotated[list[str] | None, typer.Option(help="only these, beside the reference")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="how often each is asked in turn")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="how long at a time, for each size of batch")] = 4,
    out: Annotated[Path | None, typer.Option(help="a folder to write MODEL.json, .md and .html to as well")] = None,
    as_json: Json = False,
) -> None:
    """Measure a model's variants side by side: size, memory, speed and fidelity. Keeps the card, and shows it.

    Where there is a card of hardware like this, it says which of its figures this run does not reproduce.
    Variants that need a GPU are left out where there is none. Exit code 1: a variant breaks the model's floor.
    """
    with in_words():
        spec = compared(model)
        for name in variant or ():
            spec.variant(name)
        before = cards.card_for(spec.row)
        command = command_line(model, variant, rounds, seconds)
        with steps() as report:
            card = measure(spec, variant or list(spec.variants), rounds, seconds, report, command=command)
    kept = cards.keep(card)
    shown = kept.with_suffix(".html")
    shown.write_text(drawn(card))
    if out:
        publish(card, out)
    if as_json:
        print_json(json.loads(card.text()))
    else:
        to = screen()
        to.print(speed_table(card), fidelity_table(card))
        for name, why in card.skipped.items():
            to.print(f"left out: {name}: {why}", markup=False)
        if before:
            to.print(reproduced(before, card), markup=False)
        to.print(f"Card: {kept}\nPage: {shown}")
    if any(one.below_floor for one in card.variants):
        raise typer.Exit(FAILED)


@app.command("choose")
def show_choice(model: Model, as_json: Json = False) -> None:
    """Show which variant `auto` stands for on this machine, and the numbers behind it."""
    with in_words():
        choice = choose(compared(model))
    if as_json:
        print_json(choice_document(model, choice))
        return
    to = screen()
    if choice.card:
        to.print(choice_table(choice))
        to.print(f"Measured {choice.card.measured} on {choice.card.hardware}: `{choice.card.command}`", markup=False)
    to.print(f"auto -> [bold]{choice.variant}[/bold]: {choice.reason}.")


@app.command()
def show(model: Model, out: Annotated[Path | None, typer.Option(help="write MODEL.md and .html here")] = None) -> None:
    """Show the card that was measured last on hardware like this, without measuring again."""
    with in_words():
        card = cards.card_for(compared(model).row)
        if card is None:
            raise LookupError(
                f"There is no card of {model} for this hardware. `medley variant verify {model}` makes it."
            )
    if out:
        publish(card, out)
    screen().print(speed_table(card), fidelity_table(card))


def reproduced(before: cards.Card, card: cards.Card) -> str:
    found, compared = cards.outside(before, card)
    words = f"{compared - len(found)} of {compared} figures lie within the spread of the card of {before.measured}"
    return "\n  ".join([words + (", not:" if found else "."), *found])


def drawn(card: cards.Card) -> str:
    from medley.variants.page import page  # only here: most commands draw nothing

    return page(card)


def publish(card: cards.Card, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    card = cards.Card.model_validate_json(card.text())  # rounded as in the file, so that the file gives the same pages
    for ending, text in ((".json", card.text()), (".md", markdown(card)), (".html", drawn(card))):
        (folder / f"{card.model}{ending}").write_text(text)


def judged_now(spec: ModelSpec, name: str, folder: Path, report: weights.Report) -> dict[str, float]:
    """The fidelity of a variant without files of its own, which was not compared when files were made."""
    if name == spec.reference_variant or not spec.fidelity:
        return {}
    return judge(spec, spec.variant(name), folder, report)


def compared(model: str) -> ModelSpec:
    """Raises: ModelNotFound, and KeyError where variants of the model's task are not compared."""
    spec = load_catalog().resolve(model)
    evaluation_of(spec.task)
    return spec


def model_and_variant(model: str, name: str) -> tuple[ModelSpec, Any]:
    spec = load_catalog().resolve(model)
    return spec, spec.variant(name)


def command_line(model: str, variants: list[str] | None, rounds: int, seconds: float) -> str:
    chosen = "".join(f" --variant {name}" for name in variants or ())
    return f"medley variant verify {model}{chosen} --rounds {rounds} --seconds {seconds:g}"


def choice_document(model: str, choice: Any) -> dict[str, Any]:
    candidates = [
        {"variant": one.variant, "cpu_s_per_item": one.cost, "memory_bytes": one.memory_bytes, "refusal": one.refusal}
        for one in choice.candidates
    ]
    return {"model": model, "variant": choice.variant, "reason": choice.reason, "candidates": candidates}


@contextmanager
def steps() -> Any:
    """Show each step as it begins, with the time so far. Cleared at the end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=screen_for_progress(), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda step: progress.update(task, description=step)


def screen_for_progress() -> Any:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def in_words() -> Any:
    """Turn an error into a message. Exit code 2 for a wrong argument, 1 for a failure."""
    try:
        yield
    except (ModelNotFound, KeyError, LookupError) as error:
        typer.secho(error.args[0], fg=typer.colors.RED, err=True)
        raise typer.Exit(WRONG) from None
    except (
        FidelityBelowFloor,
        TrialFailed,
        weights.WeightsMissing,
        weights.WeightsDamaged,
        OSError,
        ValueError,
    ) as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(FAILED) from None
