"""Web pages from templates beside the modules that fill them, in the frame of the load tests' pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader

from loadtest.report.templates import FOLDER as FRAME
from loadtest.report.templates import TEMPLATES as LOADTEST_TEMPLATES

TEMPLATES = LOADTEST_TEMPLATES.overlay(loader=FileSystemLoader([Path(__file__).parents[1], FRAME]))


def render(template: str, **facts: Any) -> str:
    """Fill in a template. All values are escaped.

    Args:
        template: its path below `medley/`.

    Raises:
        jinja2.UndefinedError: the template needs a fact that is missing.
    """
    return TEMPLATES.get_template(template).render(facts)
