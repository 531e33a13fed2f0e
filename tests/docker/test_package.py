"""What `pip install` without --editable makes of the repository, as the images have it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "workshop", "deployments", "medley", "loadtest")


@pytest.fixture(scope="module")
def sources() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def installed(sources, tmp_path_factory) -> Path:
    """The folder that it is installed to. Made from a copy, because pip leaves a folder `build` where it builds."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE", *sources):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-compile"),
            *("--disable-pip-version-check", "--target", str(target), str(copy)),
        ],
        check=True,
        timeout=120,
    )
    return target


def test_it_holds_every_file_but_the_readmes(sources, installed):
    wanted = {name for name in sources if not name.endswith("README.md")}
    there = {
        str(file.relative_to(installed))
        for name in PACKAGES
        for file in (installed / name).rglob("*")
        if file.is_file()
    }
    assert wanted - there == set(), "add them to package-data in pyproject.toml"


def test_the_command_line_and_the_catalog_work_from_there(installed, tmp_path):
    code = (
        "import models.catalog as c; from typer.testing import CliRunner; from medley.main import app; "
        "print(c.__file__, len(c.load_catalog()), CliRunner().invoke(app, ['--help']).exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    place, models, code = done.stdout.split()
    assert Path(place) == installed / "models" / "catalog.py"
    assert int(models) > 20
    assert code == "0"
