"""What is true of a task stands in its contract: no map, list or chain of cases elsewhere goes by tasks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.specs import Backend
from models.tasks import BY_NAME

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "workshop", "deployments", "medley", "loadtest")
# The one list of tasks.
HOME = "models/tasks/__init__.py"


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((REPOSITORY / package).rglob("*.py"))


def task_of(node: ast.AST | None) -> str | None:
    """The task that an expression names: "chat", chat.TASK, Task.CHAT or TASKS["chat"]."""
    match node:
        case ast.Constant(value=str() as name):
            return name if name in BY_NAME else None
        case ast.Attribute(value=ast.Name(id=name), attr="TASK"):
            return name
        case ast.Attribute(attr=name) if name.isupper():
            return name.lower() if name.lower() in BY_NAME else None
        case ast.Subscript(slice=inner):
            return task_of(inner)
        case ast.Tuple(elts=[first, *_]):
            return task_of(first)
    return None


def tasks_in(node: ast.AST) -> set[str]:
    """The tasks by which a literal, a match statement or a comparison tells cases apart."""
    match node:
        case ast.Dict(keys=keys):
            named = [task_of(key) for key in keys]
        case ast.Set(elts=elements) | ast.List(elts=elements) | ast.Tuple(elts=elements):
            named = [task_of(element) for element in elements]
        case ast.Match(cases=cases):
            patterns = [one.pattern for one in cases]
            named = [task_of(one.value) for one in patterns if isinstance(one, ast.MatchValue)]
        case ast.If(test=test, orelse=[ast.If(test=other), *_]):
            named = [task_of(one) for each in (test, other) for one in ast.walk(each)]
        case _:
            return set()
    return {name for name in named if name is not None}


def maps_by_task(file: Path) -> list[str]:
    found = [(node, tasks_in(node)) for node in ast.walk(ast.parse(file.read_text()))]
    return [f"{file.name}:{getattr(node, 'lineno', 0)} {sorted(tasks)}" for node, tasks in found if len(tasks) > 1]


def test_the_list_of_tasks_is_the_only_one():
    found = {str(file.relative_to(REPOSITORY)): maps for file in sources() if (maps := maps_by_task(file))}
    assert list(found) == [HOME], found


@pytest.mark.parametrize(
    "code",
    [
        "SERVERS = {'chat': 1, 'embeddings': 2}",
        "ENGINES = {(Task.CHAT, 'vllm'): 1, (Task.IMAGES, 'onnx'): 2}",
        "READS = (chat.TASK, embeddings.TASK)",
        "TASKS = frozenset({Task.IMAGES, Task.STYLES})",
        "match task:\n    case Task.CHAT: pass\n    case Task.STYLES: pass",
        "if task == 'chat':\n    pass\nelif task == 'images':\n    pass",
    ],
)
def test_a_second_one_would_be_found(tmp_path, code):
    file = tmp_path / "module.py"
    file.write_text(code)
    assert len(maps_by_task(file)) == 1


# What is found by a task's name: where, and what such a module defines. Others of the folder define none.
FOUND_BY_NAME = (
    ("deployments/router/routes", "EXAMPLE"),
    ("deployments/servers", "Server"),
    ("models/engines", "Engine"),
    ("workshop/evaluation", "EVALUATION"),
    ("loadtest/tasks", "KIND"),
)
OF_EVERY_TASK = {"deployments/servers/batch.py"}


def defines(file: Path, name: str) -> bool:
    """Whether a module, or the __init__ of a package, has an object of this name."""
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)):
                pass
            case ast.ClassDef(name=found):
                pass
            case ast.ImportFrom(names=names):
                if name in {one.asname or one.name for one in names} and file.name == "__init__.py":
                    return True
                continue
            case _:
                continue
        if found == name:
            return True
    return False


@pytest.mark.parametrize(("folder", "name"), FOUND_BY_NAME, ids=str)
def test_a_part_whose_module_is_misspelt_is_not_overlooked(folder, name):
    """It would have the default of a part that is not there."""
    modules = [*(REPOSITORY / folder).glob("*.py"), *(REPOSITORY / folder).glob("*/__init__.py")]
    stems = {file: file.parent.name if file.name == "__init__.py" else file.stem for file in modules}
    parts = [file for file, stem in stems.items() if stem != Path(folder).name and defines(file, name)]
    known = {f"{task}_{backend}" for task in BY_NAME for backend in Backend} | set(BY_NAME)
    unknown = {str(file.relative_to(REPOSITORY)) for file in parts if stems[file] not in known}
    assert unknown - OF_EVERY_TASK == set()
    assert parts
