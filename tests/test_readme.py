"""What the documents promise is there: models, commands, files, sections. Their Python compiles, and the router answers
the first example."""

import json
import re
from pathlib import Path

import pytest
import typer
from tables import shown, to_write

from medley.checks.config import ServedModel, read_config
from medley.main import app
from models.catalog import load_catalog
from models.specs import ModelSpec

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
FOLDERS = ("benchmarks", "docs", "k8s", "loadtest", "models", "tests")
DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *(document for folder in FOLDERS for document in sorted((REPOSITORY / folder).rglob("*.md"))),
]
STARTER_CLUSTER = REPOSITORY / "serve_config.yaml"
MODEL_TABLE = REPOSITORY / "docs" / "models.md"
EXAMPLES = REPOSITORY / "docs" / "getting-started.md"
START_PAGE = REPOSITORY / "docs" / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SOURCES = {
    "wheel": "Python package",
    "hub": "Hugging Face hub",
    "folder": "folder",
    "packaged": "Medley itself",
    "none": "none",
}


def table_of_models() -> str:
    """The models of the catalog as docs/models.md shows them."""
    lines = ["| id | task | licence | weights from | starter cluster | variants |", "|---|---|---|---|---|---|"]
    starters = {model.spec.id: in_starter_cluster(model) for model in read_config(STARTER_CLUSTER).models}
    rows = [row(spec, starters.get(spec.id, "")) for spec in load_catalog().values()]
    return "\n".join([*lines, *rows]) + "\n"


def in_starter_cluster(model: ServedModel) -> str:
    return f"{'sleeps' if model.sleeps else 'runs'}, {model.variant.needs.memory_gib:g} GiB"


def row(spec: ModelSpec, starter: str) -> str:
    variants = [f"**{name}**" if name == spec.default_variant else name for name in spec.variants]
    cells = [f"`{spec.id}`", spec.task.name, spec.licence, SOURCES[spec.source.kind], starter, ", ".join(variants)]
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
    table = table_of_models()
    assert shown(MODEL_TABLE, "models", table) == table, to_write(table)


def test_a_newcomer_sees_python_for_each_kind_of_request():
    assert sum(language == "python" for language, _ in BLOCK.findall(EXAMPLES.read_text())) >= 4


async def test_the_example_of_the_readme_is_answered(http):
    """With the real model it is in tests/cluster, which asks the same question."""
    (body,) = re.findall(r"^  -d '(.*)'$", README.read_text(), re.MULTILINE)
    response = await http.post("/v1/chat/completions", json=json.loads(body))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == json.loads(body)["model"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    (question,) = json.loads(body)["messages"]
    assert question["content"] in (REPOSITORY / "tests" / "cluster" / "test_cluster_1_answers.py").read_text()


def test_the_readme_fits_on_two_screens():
    assert len(README.read_text().splitlines()) <= 100


def test_the_start_page_leads_to_every_page():
    pages = {path for path in START_PAGE.parent.glob("*.md") if path != START_PAGE}
    assert pages <= {target for target, _ in links(START_PAGE)}


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
    assert {"make serve", "make stop"} <= set(re.findall(r"make [a-z]+", code(README)))


def test_every_relative_link_leads_somewhere(document):
    missing = [
        f"{target.name}#{anchor}"
        for target, anchor in links(document)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert missing == []


def test_every_alert_leads_to_a_section_of_the_runbook():
    found = re.findall(r"runbook_url: (\S+)#(\S+)", (REPOSITORY / "monitoring" / "rules.yml").read_text())
    assert found
    assert {(file, anchor) for file, anchor in found if anchor not in anchors(REPOSITORY / file)} == set()


def links(document: Path) -> list[tuple[Path, str]]:
    """File and section (perhaps "") of each link within the repository."""
    found = re.findall(r"\]\(([^)\s#]*)#?([^)\s]*)[^)]*\)", BLOCK.sub("", document.read_text()))
    return [
        (document.parent.joinpath(file).resolve() if file else document, anchor)
        for file, anchor in found
        if "://" not in file
    ]


def anchors(document: Path) -> set[str]:
    """The sections of a document, as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)", BLOCK.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
