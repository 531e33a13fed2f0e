"""Small parts of engines and makers, without a model: stop strings, what a failed step gives back, tables in 8 bits."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.engines.generation import StopStrings
from models.engines.images_diffusers.denoising import Restorable
from workshop.variants.fuse_attention import Graph, remove_unused
from workshop.variants.quantize_embeddings import quantize_table

TEXT = "one two three four five"


@pytest.mark.parametrize("stops", itertools.permutations(["three", "four", "o three f"]))
@pytest.mark.parametrize("pieces", [1, 2, 5, len(TEXT)])
def test_text_ends_before_the_stop_string_that_comes_first(stops, pieces):
    """However many arrive in one piece, and in whatever order they are named."""
    cuts = sorted(random.sample(range(1, len(TEXT)), pieces - 1))
    follower, sent = StopStrings(stops), ""
    for piece in (TEXT[start:end] for start, end in itertools.pairwise([0, *cuts, len(TEXT)])):
        sent += follower.push(piece)
        if follower.found:
            break
    assert follower.found
    assert sent in ("one tw", "one two ")  # piece by piece, "three" may end before "o three f" does
    assert sent == "one tw" or pieces > 1


def test_a_step_that_failed_takes_back_all_that_it_did():
    """Numbers that it had drawn too: the same seed must give the same picture, whether memory ran out or not."""
    scheduler = SimpleNamespace(timesteps=torch.arange(4), model_outputs=[None, None], step_index=0)
    denoising = SimpleNamespace(
        scheduler=scheduler, generator=torch.Generator().manual_seed(7), latents=torch.zeros(2), estimate=None, step=0
    )
    expected = torch.randn(3, generator=torch.Generator().manual_seed(7))
    before = Restorable.of(denoising)  # type: ignore[arg-type]
    torch.randn(5, generator=denoising.generator)
    scheduler.model_outputs.append(torch.ones(1))
    scheduler.step_index, scheduler.more = 1, True
    denoising.latents, denoising.estimate, denoising.step = torch.ones(2), torch.ones(2), 1
    before.restore()
    assert torch.equal(torch.randn(3, generator=denoising.generator), expected)
    assert vars(scheduler).keys() == {"timesteps", "model_outputs", "step_index"}
    assert (scheduler.model_outputs, scheduler.step_index) == ([None, None], 0)
    assert (denoising.latents.tolist(), denoising.estimate, denoising.step) == ([0.0, 0.0], None, 0)


def test_a_table_in_8_bits_has_the_same_rows_to_half_a_step():
    table = np.random.default_rng(random.randrange(1 << 32)).normal(size=(50, 16)).astype(np.float32)
    table[0] *= 100  # each row has a scale of its own
    ids = helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])
    rows = helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["n", 16])
    look_up = helper.make_node("Gather", ["table", "ids"], ["rows"], name="words")
    graph = helper.make_graph([look_up], "g", [ids], [rows], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph)
    quantize_table(Graph(model))
    remove_unused(model)
    (found,) = ReferenceEvaluator(model).run(None, {"ids": np.arange(50)})
    half_a_step = np.abs(table).max(axis=1, keepdims=True) / 127 / 2
    assert np.all(np.abs(found - table) <= half_a_step * 1.001)
    assert "table" not in [tensor.name for tensor in model.graph.initializer]  # or nothing would be saved
