"""A replica that cannot load looks whether its weights are damaged, and says so."""

import json
from pathlib import Path

import pytest

from deployments.servers.causes import explain
from deployments.servers.engine import EngineServer
from models import weights
from models.catalog import load_catalog
from models.weights import WeightsDamaged


class Unloadable:
    @classmethod
    def load(cls, spec, variant, folder):
        raise ValueError("header too small")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The weights of the torch variant, as far as a manifest goes."""
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    folder = weights._source_folder("all-minilm-l6-v2", load_catalog()["all-minilm-l6-v2"].source)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / weights.MANIFEST).write_text(json.dumps(weights._manifest(folder)))
    return folder


@pytest.fixture
def server() -> EngineServer:
    server = EngineServer.__new__(EngineServer)
    server.spec = load_catalog()["all-minilm-l6-v2"]
    server.variant = server.spec.variant("torch")
    return server


async def test_a_damaged_file_is_the_reason(server, folder):
    (folder / "model.safetensors").write_bytes(bytes(7))
    with pytest.raises(WeightsDamaged, match=r"model\.safetensors has changed.*medley fetch --verify") as raised:
        await server.load_or_find_damage(Unloadable, folder)
    cause, remedy = explain(raised.value, "load")
    assert "checksum" in cause
    assert "medley fetch --verify" in remedy


async def test_another_reason_stays_what_it_is(server, folder):
    with pytest.raises(ValueError, match="header too small"):
        await server.load_or_find_damage(Unloadable, folder)
