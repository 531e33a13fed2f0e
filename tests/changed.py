"""Run the tests of every commit that a change can touch: `python tests/changed.py [SINCE]`, or `make test-changed`.

What has changed is what git says against SINCE (a commit or branch; HEAD unless given, so what is not committed yet). A
test is touched when it, its conftest files or a module that they import, directly or by way of others, has changed or
reads a file that has. Imports inside functions count, and so do those by name, as "models.engines.chat_vllm:VLLMChat",
and by the beginning of a name, as f"loadtest.tasks.{task}".
Packages, settings and what all tests share touch everything, and so does a file that nothing names."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "workshop", "deployments", "medley", "loadtest")
BY_NAME = re.compile(rf"^({'|'.join(PACKAGES)})(\.\w+)+(:\w+)?$")
EVERYTHING = re.compile(r"^(Makefile|pyproject\.toml|requirements/|tests/(conftest|tiers|costs)\.py)")
BY_BEGINNING = re.compile(rf"^({'|'.join(PACKAGES)})(\.\w+)+\.$")
# What tests read as files or copy whole, Python too.
READ_BY_TESTS = ("tests/toy/", "tests/mutations/")
# Read by people only, or by none of the tests that run here.
NO_TEST = re.compile(r"^(benchmarks/results/|docs/decisions/|LICENSE|\.editorconfig|\.gitignore)")


def main(since: str) -> int:
    sys.path.insert(0, str(ROOT))  # before tests/, which has folders that are named like packages
    changed = changed_files(since)
    print(f"{len(changed)} files differ from {since}.")
    tests = touched_by(changed)
    if tests is None:
        print("One of them may touch everything: all tests of every commit run.")
        tests = [ROOT / "tests"]
    if not tests:
        print("No test of every commit can be touched.")
        return 0
    named = sorted(str(test.relative_to(ROOT)) for test in tests)
    print(f"{len(named)} files of tests:", *named, sep="\n  ", flush=True)
    seed = f"--randomly-seed={os.environ.get('SEED', 'default')}"
    command = [sys.executable, "-m", "pytest", seed, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *named]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
    print("Real clusters and the release tier are not part of this: `make test-cluster`, `make test-all`.")
    return 0 if code == 5 else code  # 5: none of the files has a test of every commit


def changed_files(since: str) -> list[str]:
    def lines(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"git {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[0]}")
        return done.stdout.splitlines()

    # A file that was renamed is one that is gone and one that has come. `--`: a branch may be named like a folder.
    differ = lines("diff", "--name-only", "--no-renames", since, "--")
    return sorted({*differ, *lines("ls-files", "--others", "--exclude-standard")})


def touched_by(changed: list[str]) -> list[Path] | None:
    """The test files that the change can touch; None if it can touch all."""
    changed = [file for file in changed if not NO_TEST.match(file)]
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    sources = {ROOT / file for file in changed if file.endswith(".py") and not file.startswith(READ_BY_TESTS)}
    data = [Path(file) for file in changed if not file.endswith(".py") or file.startswith(READ_BY_TESTS)]
    modules = {module_of(file) for file in sources if file.relative_to(ROOT).parts[0] in PACKAGES}
    readers = {file: {path for path in code_files() if reads(path, file)} for file in data}
    # Who imported what is gone is not known; nobody imports a file of tests.
    gone = any(not file.exists() and not file.name.startswith("test_") for file in sources)
    elsewhere = any(file.relative_to(ROOT).parts[0] not in (*PACKAGES, "tests") for file in sources)
    if gone or elsewhere or any(map(EVERYTHING.match, changed)) or any(not readers[file] for file in data):
        return None
    sources |= set().union(*readers.values())
    modules |= {module_of(path) for path in sources if path.relative_to(ROOT).parts[0] in PACKAGES}
    modules = downstream(modules)
    return [test for test in tests if any(path in sources or imports(path) & modules for path in with_support(test))]


@cache
def code_files() -> tuple[Path, ...]:
    return tuple(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))


def reads(path: Path, file: Path) -> bool:
    """Whether the code names the file, or the folder that it lies in."""
    if file.as_posix().startswith(READ_BY_TESTS):
        names = {file.parts[1]}
    else:
        names = {file.name, file.stem} | ({file.parent.name, file.parts[0]} if len(file.parts) > 1 else set())
    return any(names & set(Path(text).parts) for text in texts(path))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def downstream(modules: set[str]) -> set[str]:
    """These modules and all that import them."""
    graph = import_graph()
    return modules.union(*(graph.find_downstream_modules(module) for module in modules & graph.modules))


@cache
def import_graph() -> grimp.ImportGraph:
    """Which module imports which, inside functions and by name too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    known = graph.modules  # a copy each time
    for path in code_files():
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            for text in texts(path):
                name = text.partition(":")[0]
                named = {name} & known if BY_NAME.match(text) else begins_with(text, known)
                for imported in named - {module_of(path)}:
                    graph.add_import(importer=module_of(path), imported=imported)
    return graph


def begins_with(text: str, modules: set[str]) -> set[str]:
    """The modules that can be imported by a name which begins so."""
    return {module for module in modules if module.startswith(text)} if BY_BEGINNING.match(text) else set()


def with_support(test: Path) -> Iterator[Path]:
    """A test file, the modules beside it that it imports, and its conftest files."""
    yield test
    conftests = [folder / "conftest.py" for folder in test.parents if folder != ROOT and folder.is_relative_to(ROOT)]
    places = [test.parent, ROOT / "tests"]
    seen, waiting = {test}, [test, *filter(Path.is_file, conftests)]
    while waiting:
        path = waiting.pop()
        for name in imports(path):
            beside = [place / f"{name}.py" for place in places]
            waiting += [one for one in beside if one.is_file() and one not in seen]
        if path not in seen:
            seen.add(path)
            yield path


@cache
def imports(path: Path) -> frozenset[str]:
    """Names of modules that a file imports anywhere in it, and those that it names in texts."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found | {text.partition(":")[0] for text in texts(path) if BY_NAME.match(text)})


@cache
def texts(path: Path) -> frozenset[str]:
    return frozenset(
        node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["HEAD"])))
