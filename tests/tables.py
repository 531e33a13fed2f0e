"""Tables in documents that are made from the code. `make generated` writes them anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

WRITE = "MEDLEY_WRITE_TABLES"


def shown(document: Path, name: str, table: str) -> str:
    """The table that a document shows between `<!-- name -->` and `<!-- /name -->`.

    Args:
        table: what it should be. It is written there first, where `make generated` asks for that.
    """
    between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    text = document.read_text()
    (found,) = between.findall(text)
    if os.environ.get(WRITE) and found != table:
        document.write_text(between.sub(lambda _: table, text))
        found = table
    return found


def to_write(table: str) -> str:
    """What a failed test says."""
    return f"`make generated` writes it anew, as:\n{table}"
