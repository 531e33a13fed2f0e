"""What the documents promise is there: models, commands, files; and their Python compiles."""

import re
from pathlib import Path

import pytest
import typer

from medley.main import app
from models.catalog import load_catalog
from models.specs import ModelSpec

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
DOCUMENTS = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "k8s" / "README.md",
    REPOSITORY / "loadtest" / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
MODELS = re.compile(r"(?<=<!-- models -->\n).*?(?=<!-- /models -->)", re.DOTALL)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SOURCES = {
    "wheel": "Python package",
    "hub": "Hugging Face hub",
    "folder": "folder",
    "packaged": "Medley itself",
    "none": "none",
}


def table_of_models() -> str:
    """The models of the catalog as the README shows them."""
    lines = ["| id | task | licence | weights from | variants |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(row, load_catalog().values())]) + "\n"


def row(spec: ModelSpec) -> str:
    variants = [f"**{name}**" if name == spec.default_variant else name for name in spec.variants]
    cells = [f"`{spec.id}`", spec.task, spec.licence, SOURCES[spec.source.kind], ", ".join(variants)]
    return f"| {' | '.join(cells)} |"


def code(document: Path) -> str:
    """Everything in a document that is set as code."""
    text = document.read_text()
    blocks = [block for _, block in BLOCK.findall(text)]
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))])


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def document(request) -> Path:
    return request.param


def test_the_table_of_models_is_the_catalog():
    (table,) = MODELS.findall(README.read_text())
    assert table == table_of_models(), f"the table should be:\n{table_of_models()}"


def test_the_readme_shows_python():
    assert sum(language == "python" for language, _ in BLOCK.findall(README.read_text())) >= 3


def test_every_block_of_python_compiles(document):
    for language, block in BLOCK.findall(document.read_text()):
        if language == "python":
            compile(block, document.name, "exec")


def test_every_make_command_exists(document):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", code(document)))
    assert named <= targets


def test_every_medley_command_exists(document):
    commands = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"(?<!-n)(?:^|[\s/(])medley ([a-z0-9]+)", code(document), re.MULTILINE))
    assert named <= commands


def test_the_readme_names_the_main_commands():
    assert {"make serve", "make stop", "make test"} <= set(re.findall(r"make [a-z]+", code(README)))


def test_every_relative_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", BLOCK.sub("", document.read_text()))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []
