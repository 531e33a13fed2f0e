"""Check every YAML document strictly: `medley check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medley.checks.catalog import catalog_files, catalog_problems
from medley.checks.machine import Machine, this_machine
from medley.checks.serve import serve_problems
from medley.checks.slo import slo_problems
from medley.checks.yaml_lines import Document, Problem, read_document, sorted_problems

SERVE_CONFIG, SLO = Path("serve_config.yaml"), Path("slo.yaml")


def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML files; all of them when none is named", show_default=False)
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="also ask whether one replica of each model fits here")] = False,
) -> None:
    """Check YAML files strictly: every unknown key, wrong value and broken rule, with its line.

    Exit code 1: something cannot be served. A warning alone is 0.
    """
    wanted = files or default_files()
    machine = this_machine() if here else None
    found = list(dict.fromkeys(problem for file in wanted for problem in problems_of(file, machine)))
    for problem in found:
        typer.echo(str(problem))
    if wrong := [problem for problem in found if problem.stops]:
        typer.echo(f"{_count(len(wrong), 'problem')} in {_count(len({one.path for one in wrong}), 'file')}.", err=True)
        raise typer.Exit(1)
    warnings = f", {_count(len(found), 'warning')}" if found else ""
    typer.echo(f"{_count(len(wanted), 'file')}, no problems{warnings}.")


def default_files() -> list[Path]:
    """serve_config.yaml, the catalog, and slo.yaml where there is one."""
    here = Path.cwd()
    catalog = [file.relative_to(here) if file.is_relative_to(here) else file for file in catalog_files()]
    return [SERVE_CONFIG, *catalog, *([SLO] if SLO.exists() else [])]


def problems_of(path: Path, machine: Machine | None = None) -> list[Problem]:
    """Everything that is wrong with a file, in the order of its lines.

    Args:
        machine: for a serve config, also ask whether one replica of each model fits this machine.
    """
    document = read_document(path)
    found = document.problems + (_problems(document, machine) if document.readable else [])
    return sorted_problems(found)


def _problems(document: Document, machine: Machine | None) -> list[Problem]:
    if document.path.name == SLO.name:
        return slo_problems(document)
    if _is_catalog(document):
        return catalog_problems(document)
    return serve_problems(document, machine)


def _is_catalog(document: Document) -> bool:
    keys = document.value if isinstance(document.value, dict) else {}
    return "applications" not in keys and ("models" in keys or document.path.absolute().parent.name == "catalog")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
