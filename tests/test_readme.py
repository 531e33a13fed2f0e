"""The README says what is true."""

import re
from pathlib import Path

import pytest

from medley.main import app
from models.catalog import load_catalog

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_table_of_models_is_the_catalog():
    rows = ["| model | task | licence | variants |", "|---|---|---|---|"]
    for spec in load_catalog().values():
        others = [name for name in spec.variants if name != spec.default_variant]
        variants = ", ".join([f"**{spec.default_variant}**", *others])
        rows.append(f"| `{spec.id}` | {spec.task} | {spec.licence} | {variants} |")
    shown = README.split("<!-- models -->\n")[1].split("\n<!-- /models -->")[0]
    assert shown == "\n".join(rows)


def test_python_in_the_readme_compiles():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_links_exist(document):
    text = document.read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    assert set(re.findall(r"(?:bin/|`)medley ([a-z]+)", text)) <= commands
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert (document.parent / link).exists(), link
