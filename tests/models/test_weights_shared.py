"""Weights on a volume that several users read."""

import os
import stat
from pathlib import Path

from models import weights


def test_files_that_a_maker_wrote_for_its_owner_only_can_be_read_by_others(tmp_path):
    def fill(target: Path) -> None:
        (target / "part").mkdir()
        os.close(os.open(target / "part" / "model.safetensors", os.O_WRONLY | os.O_CREAT, 0o600))

    before = os.umask(0o022)
    try:
        weights._once(tmp_path / "artifact", fill)
    finally:
        os.umask(before)
    mode = (tmp_path / "artifact" / "part" / "model.safetensors").stat().st_mode
    assert stat.S_IMODE(mode) == 0o644
