"""Web pages from the templates in this folder. All values are escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **facts: Any) -> str:
    """Fill in a template.

    Args:
        template: the name of its file.

    Raises:
        jinja2.UndefinedError: the template needs a fact that is missing.
    """
    return TEMPLATES.get_template(template).render(facts)
