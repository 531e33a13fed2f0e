"""docs/mistakes.md lists the seeded mistakes. MEDLEY_WRITE_MISTAKES=1 writes the list anew."""

import os

from seeded_mistakes import MISTAKES, REPOSITORY, Mistake

PAGE = REPOSITORY / "docs" / "mistakes.md"
START, END = "<!-- static -->\n", "<!-- /static -->"


def table() -> str:
    rows = "".join(f"| {one.name} | {said(one)} |\n" for one in MISTAKES)
    return f"| mistake | message a person sees |\n|---|---|\n{rows}"


def said(mistake: Mistake) -> str:
    """What follows the file and the line. In two backquotes, because messages have single ones."""
    return f"`` {': '.join(part for part in (mistake.where, mistake.message) if part)} ``"


def test_the_page_lists_every_mistake():
    before, _, rest = PAGE.read_text().partition(START)
    listed, _, after = rest.partition(END)
    if os.environ.get("MEDLEY_WRITE_MISTAKES"):
        PAGE.write_text(f"{before}{START}{table()}{END}{after}")
        listed = table()
    assert listed == table(), "MEDLEY_WRITE_MISTAKES=1 pytest tests/medley_cli/test_mistakes_page.py writes it anew"


def test_no_mistake_is_listed_twice():
    assert len({one.name for one in MISTAKES}) == len(MISTAKES)
    assert all("|" not in one.where + one.message for one in MISTAKES)
