"""What a test found, for people and programs: terminal, JSON, JUnit, one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from loadtest import records
from loadtest.plan import Plan
from loadtest.records import Record
from loadtest.report.junit import junit
from loadtest.report.page import page
from loadtest.report.summary import summary
from loadtest.report.terminal import show
from loadtest.verdict import Verdict


def report(  # noqa: PLR0917
    plan: Plan, attempts: Sequence[Record], verdict: Verdict, cold: dict[str, float], began: float, out: TextIO
) -> None:
    """Write all forms to the plan's folder, and the table to `out`."""
    document = summary(plan, attempts, verdict, cold, began)
    write(document, attempts, plan.options.report)
    show(document, out)


def write(document: dict[str, Any], attempts: Sequence[Record], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    records.write(attempts, folder / "records.jsonl")
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "report.xml").write_text(junit(document))
    (folder / "report.html").write_text(page(document, attempts))
