"""Pages for a browser, from the templates that lie beside the modules that fill them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **facts: Any) -> str:
    """The page that a template makes of these facts. Texts among them are escaped.

    Args:
        template: its path below `medley/`.

    Raises:
        jinja2.UndefinedError: the template needs a fact that is not given.
    """
    return TEMPLATES.get_template(template).render(facts)
