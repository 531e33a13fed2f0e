"""What a test found, for people and programs: terminal, JSON, JUnit, one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from loadtest import records
from loadtest.records import Record
from loadtest.report.junit import junit_xml
from loadtest.report.page import render_page
from loadtest.report.summary import summarize
from loadtest.report.terminal import show
from loadtest.schedule import Schedule
from loadtest.verdict import Verdict


def write_reports(  # noqa: PLR0917
    schedule: Schedule, attempts: Sequence[Record], verdict: Verdict, cold: dict[str, float], began: float, out: TextIO
) -> None:
    """Write all forms to the folder that the options name, and the table to `out`."""
    document = summarize(schedule, attempts, verdict, cold, began)
    write(document, attempts, schedule.options.report)
    show(document, out)


def write(document: dict[str, Any], attempts: Sequence[Record], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    records.write(attempts, folder / "records.jsonl")
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "report.xml").write_text(junit_xml(document))
    (folder / "report.html").write_text(render_page(document, attempts))
