"""Upscaling in tiles, and reading ncnn's files: on tiny networks made here."""

import json
import random
import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.engines.networks.real_esrgan import RRDBNet, SRVGGNetCompact
from models.engines.upscaling_tiles import Span, spans
from models.engines.upscaling_torch import Engine as TorchUpscaling
from models.errors import OutOfMemory
from workshop.variants.unpack_realesrgan import FP16_TAG, unpack

COMPACT = {"architecture": "SRVGGNetCompact", "convolutions": 2}
DENSE = {"architecture": "RRDBNet", "blocks": 1}


def engine_of(folder, config, **tiles) -> TorchUpscaling:
    """A network with random weights, large enough that neighbours show."""
    network = SRVGGNetCompact(2) if config is COMPACT else RRDBNet(1)
    drawn = torch.Generator().manual_seed(7)
    state = {name: torch.randn(value.shape, generator=drawn) * 0.05 for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return TorchUpscaling(folder, "cpu", torch.float32, **tiles)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


SIZES = [(70, 50), (41, 83), (1, 1), (5, 130)]


@pytest.mark.parametrize("config", [COMPACT, DENSE])
def test_tiles_leave_no_seams(tmp_path, config):
    no_seams(tmp_path, config, random.choice(SIZES))


@pytest.mark.matrix
@pytest.mark.parametrize("config", [COMPACT, DENSE])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_every_size_leave_no_seams(tmp_path, config, size):
    no_seams(tmp_path, config, size)


def no_seams(tmp_path, config, size):
    image = noise(*size)
    engine = engine_of(tmp_path, config, trunk_tile=4096, draw_tile=4096)
    whole = engine.upscale(image)
    engine.trunk_tile, engine.draw_tile = 24, 16
    tiled = engine.upscale(image)
    assert whole.shape == tiled.shape == (size[0] * 4, size[1] * 4, 3)
    assert whole.std() > 1
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@pytest.mark.parametrize(("config", "reach"), [(COMPACT, "draw_reach"), (DENSE, "trunk_reach")])
def test_tiles_that_see_too_little_would_show(tmp_path, config, reach):
    """The other direction of the test above: seams are there to be seen where a tile ends at its own edge."""
    image = noise(48, 48)
    engine = engine_of(tmp_path, config, trunk_tile=4096, draw_tile=4096)
    whole = engine.upscale(image)
    engine.trunk_tile, engine.draw_tile = 24, 16
    setattr(engine.network, reach, 0)
    assert np.abs(whole.astype(int) - engine.upscale(image)).max() > 3


def test_spans_cover_everything_once():
    for length, side, reach in ((1, 10, 3), (100, 10, 3), (101, 33, 0), (64, 32, 40)):
        parts = list(spans(Span(0, length, length), side, reach))
        assert parts[0].start == 0
        assert parts[-1].stop == length
        assert all(one.stop == other.start for one, other in pairwise(parts))
        assert all(part.last_seen - part.first_seen <= side + 2 * reach for part in parts)
        assert all(part.first_seen == max(0, part.start - reach) for part in parts)


def test_it_can_be_stopped_on_the_way(tmp_path):
    engine = engine_of(tmp_path, COMPACT, trunk_tile=64, draw_tile=64)
    calls = []

    def stop_at_the_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale(noise(64, 64), stop_at_the_third)
    assert len(calls) == 3
    assert engine.upscale(noise(8, 8)).shape == (32, 32, 3)


def test_short_memory_is_met_with_smaller_tiles(tmp_path, monkeypatch):
    engine = engine_of(tmp_path, COMPACT, trunk_tile=128, draw_tile=128)
    wanted = engine.upscale(noise(100, 100))
    draw, most = engine.network.draw, 45 * 45

    def draw_small(features):
        if features.shape[2] * features.shape[3] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return draw(features)

    monkeypatch.setattr(engine.network, "draw", draw_small)
    assert np.abs(wanted.astype(int) - engine.upscale(noise(100, 100))).max() <= 1
    most = 10
    with pytest.raises(OutOfMemory, match="smaller"):
        engine.upscale(noise(100, 100))


def test_other_errors_are_not_taken_for_short_memory(tmp_path, monkeypatch):
    engine = engine_of(tmp_path, COMPACT)

    def fail(features):
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine.network, "draw", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        engine.upscale(noise(8, 8))


def write_ncnn(folder, extra: bytes = b"", tag: int = FP16_TAG) -> SRVGGNetCompact:
    """A compact network in ncnn's format, and the same in torch."""
    network = SRVGGNetCompact(2)
    lines, data = ["Input input.1 0 1 data"], b""
    for number, layer in enumerate(network.body):
        edges = f"1 1 {number} {number + 1}"
        if isinstance(layer, torch.nn.Conv2d):
            weight = layer.weight.detach().half().numpy()
            layer.weight.data = torch.from_numpy(weight).float()
            lines.append(f"Convolution Conv_{number} {edges} 0={layer.out_channels} 1=3 4=1 5=1 6={weight.size}")
            data += struct.pack("<I", tag) + weight.tobytes() + b"\0" * (-weight.nbytes % 4)
            data += layer.bias.detach().numpy().tobytes()
        else:
            layer.weight.data = torch.rand(layer.weight.shape)
            lines.append(f"PReLU PRelu_{number} {edges} 0={layer.weight.numel()}")
            data += layer.weight.detach().numpy().tobytes()
    (folder / "tiny.param").write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    (folder / "tiny.bin").write_bytes(data + extra)
    return network


def test_ncnn_files_become_the_same_network(tmp_path):
    network = write_ncnn(tmp_path)
    (tmp_path / "out").mkdir()
    unpack(tmp_path, tmp_path / "out")
    engine = TorchUpscaling(tmp_path / "out", "cpu", torch.float32)
    image = noise(9, 12)
    with torch.inference_mode():
        wanted = network.draw(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(engine.upscale(image), wanted.clamp(0, 1) * 255, atol=0.51)


@pytest.mark.parametrize("damage", [{"extra": b"1234"}, {"tag": 0}])
def test_damaged_ncnn_files_are_refused(tmp_path, damage):
    write_ncnn(tmp_path, **damage)
    with pytest.raises(ValueError, match=r"bytes|fp16"):
        unpack(tmp_path, tmp_path)
