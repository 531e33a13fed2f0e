"""docs/mistakes.md lists the seeded mistakes."""

from seeded_mistakes import BACKENDS, KNOWN, MISTAKES, REPOSITORY, VARIANTS, Mistake
from tables import shown, to_write

PAGE = REPOSITORY / "docs" / "mistakes.md"
# Lists that grow with the catalog and the tasks, and what the page has in their places.
GROWING = {VARIANTS: "onnx and others", BACKENDS: "onnx and others", KNOWN: "chat or another task,"}


def table() -> str:
    rows = "".join(f"| {one.name} | {said(one)} |\n" for one in MISTAKES)
    return f"| mistake | message a person sees |\n|---|---|\n{rows}"


def said(mistake: Mistake) -> str:
    """What follows the file and the line. In two backquotes, because messages have single ones."""
    message = mistake.message
    for growing, shown_as in GROWING.items():
        message = message.replace(growing, shown_as)
    return f"`` {': '.join(part for part in (mistake.where, message) if part)} ``"


def test_the_page_lists_every_mistake():
    assert shown(PAGE, "static", table()) == table(), to_write(table())


def test_no_mistake_is_listed_twice():
    assert len({one.name for one in MISTAKES}) == len(MISTAKES)
    assert all("|" not in one.where + one.message for one in MISTAKES)
