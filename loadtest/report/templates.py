"""The pages' templates, which lie beside this module. What is put into one is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(template: str, **facts: Any) -> str:
    """
    Args:
        template: the name of its file.

    Raises:
        jinja2.UndefinedError: it needs a fact that is not given.
    """
    return TEMPLATES.get_template(template).render(facts)
