"""Variants of the starter embedding model: those of the catalog keep its floors, and broken ones do not."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.catalog import load_catalog
from models.engines.embeddings_onnx import Engine as OnnxEmbeddings
from models.engines.embeddings_onnx import padded
from models.engines.onnx_session import open_session
from models.specs import Needs
from models.weights import locate
from workshop.evaluation.embeddings import BATCH, EVALUATION, EmbeddingsSubject, compare, ndcg, open_variant, retrieval
from workshop.evaluation.fidelity import below_floor
from workshop.variants import export_onnx, quantize_embeddings
from workshop.variants.fuse_attention import Graph
from workshop.variants.quantize_embeddings import EXPONENTS, candidates, product, quantize_product
from workshop.variants.quantize_onnx import half

SPEC = load_catalog().resolve("all-minilm-l6-v2")
variants = pytest.mark.variants


def outlying(tokens: int = 200, channels: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An input with a channel that is 100 times larger than the rest, as encoders have, and a weight."""
    drawn = np.random.default_rng(2)
    inputs = drawn.standard_normal((tokens, channels)).astype(np.float32)
    inputs[:, 5] *= 100
    return inputs, (drawn.standard_normal((channels, 32)) / 8).astype(np.float32)


def error_of(quantized, inputs, weight) -> float:
    return float(np.mean((product(inputs, quantized) - inputs @ weight) ** 2) / np.mean((inputs @ weight) ** 2))


def test_smoothing_spares_the_small_channels():
    inputs, weight = outlying()
    plain = next(candidates(inputs, weight, (None,)))
    chosen = quantize_product(inputs, weight, EXPONENTS["static"])
    assert chosen.smoothing is not None
    assert error_of(chosen, inputs, weight) < error_of(plain, inputs, weight) / 4
    assert error_of(chosen, inputs, weight) < 1e-3


def test_a_scale_from_other_inputs_is_a_bad_one():
    inputs, weight = outlying()
    wrong = quantize_product(inputs / 50, weight, EXPONENTS["static"])
    assert error_of(wrong, inputs, weight) > 0.5


def test_the_set_has_answers():
    texts = retrieval()
    assert len(texts.questions) == len(set(texts.questions)) == 60
    assert len(texts.documents) == len(set(texts.documents)) == 136
    assert ((texts.grades == 2).sum(1) == 1).all()
    perfect, worst = texts.grades + 0.0, -texts.grades + 0.0
    assert ndcg(texts.grades, perfect) == 1
    assert ndcg(texts.grades, worst) < 0.05


def vectors(seed: int, like: dict[str, np.ndarray] | None = None, noise: float = 1.0) -> dict[str, np.ndarray]:
    drawn, texts = np.random.default_rng(seed), retrieval()
    sizes = {"questions": len(texts.questions), "documents": len(texts.documents)}
    made = {name: drawn.standard_normal((size, 16)) for name, size in sizes.items()}
    if like is not None:
        made = {name: like[name] + noise * value for name, value in made.items()}
    return made | {"alone": made["documents"][::BATCH]}


def test_measures_are_one_for_equal_vectors_and_fall_with_noise():
    reference = vectors(1)
    assert compare(reference, reference) == pytest.approx(dict.fromkeys(EVALUATION.measures, 1.0))
    near, far = (compare(reference, vectors(2, reference, noise)) for noise in (0.05, 0.5))
    for name in ("cosine", "cosine_worst", "rank_correlation", "top5"):
        assert far[name] < near[name] < 1


def test_a_vector_that_depends_on_its_batch_is_seen():
    reference = vectors(1)
    moved = reference | {"alone": reference["alone"] + 1}
    assert compare(reference, moved)["alone"] < 0.95


@pytest.fixture(scope="module")
def reference(artifacts):
    variant = SPEC.variant(SPEC.reference_variant)
    folder = artifacts.of(SPEC, SPEC.reference_variant)
    return artifacts.answers(SPEC.id, lambda: answers_of(open_variant(SPEC, variant, folder)))


@pytest.fixture(scope="module")
def exported(artifacts):
    return artifacts.of(SPEC, "onnx")


def answers_of(subject):
    return subject.answers(lambda done: None)


def judged(reference, engine) -> tuple[dict[str, float], str]:
    found = compare(reference, answers_of(EmbeddingsSubject(engine)))
    print({name: round(value, 4) for name, value in found.items()})
    return found, below_floor(SPEC, found)


def opened(folder) -> OnnxEmbeddings:
    return OnnxEmbeddings(folder, open_session(folder / "model.onnx", in_8_bits=True))


@pytest.fixture(scope="module")
def static(artifacts):
    return artifacts.of(SPEC, "onnx-int8")


@variants
def test_8_bits_keep_the_floor_and_a_third_of_the_size(reference, exported, static):
    found, broken = judged(reference, opened(static))
    assert not broken
    assert found["cosine"] > 0.995
    assert found["alone"] > 0.99999
    assert (static / "model.onnx").stat().st_size < (exported / "model.onnx").stat().st_size / 3
    operators = {node.op_type for node in onnx.load(static / "model.onnx").graph.node}
    assert {"QAttention", "MatMulIntegerToFloat"} <= operators
    assert not {"MatMul", "Attention", "Softmax"} & operators


@variants
def test_dynamic_8_bits_keep_the_floor(reference, artifacts):
    found, broken = judged(reference, opened(artifacts.of(SPEC, "onnx-int8-dynamic")))
    assert not broken
    assert found["alone"] < 0.9999  # as the catalog says: others in the batch matter


@variants
@pytest.mark.parametrize("name", ["onnx", "torch-bf16"])
def test_variants_of_the_same_weights_keep_the_floor(reference, artifacts, name):
    variant = SPEC.variant(name)
    found = compare(reference, answers_of(open_variant(SPEC, variant, artifacts.of(SPEC, name))))
    assert not below_floor(SPEC, found)
    assert found["cosine_worst"] > 0.999


def on_cpu(name):
    """A variant for a GPU, as if it were for a CPU, and without compiling, which takes a minute there."""
    variant = SPEC.variant(name)
    needs = Needs(cpus=1, memory_gib=variant.needs.memory_gib)
    return variant.model_copy(update={"needs": needs, "engine": {}})


@variants
def test_8_bits_of_torchao_keep_the_floor(reference, artifacts):
    variant = on_cpu("torch-gpu-int8")
    subject = open_variant(SPEC, variant, artifacts.of(SPEC, "torch"))
    linear = subject.engine.encoder.encoder.layer[0].intermediate.dense  # type: ignore[attr-defined]
    assert "int8" in str(type(linear.weight)).lower()
    assert not below_floor(SPEC, compare(reference, answers_of(subject)))


@variants
def test_halves_keep_the_floor(reference, exported, tmp_path):
    half(exported, tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 0.55 * (exported / "model.onnx").stat().st_size
    found, broken = judged(reference, opened(tmp_path))
    assert not broken
    assert found["cosine_worst"] > 0.999


@pytest.mark.parametrize("name", ["torch-gpu-compiled", "torch-gpu-int8", "onnx-gpu-fp16", "onnx-gpu-tensorrt"])
def test_variants_for_a_gpu_say_so_where_there_is_none(monkeypatch, name):
    exported = locate(SPEC, SPEC.variant("onnx"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=r"GPU|ExecutionProvider"):
        open_variant(SPEC, SPEC.variant(name), exported)


@variants
def test_perturbed_weights_break_the_floor(reference, static, tmp_path):
    model, drawn = onnx.load(static / "model.onnx"), np.random.default_rng(3)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.name.endswith("_weight_int8"):
            moved = np.clip(value + drawn.integers(-5, 6, value.shape), -127, 127).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    save(model, static, tmp_path)
    assert judged(reference, opened(tmp_path))[1]


@variants
def test_a_wrong_calibration_breaks_the_floor(reference, exported, tmp_path, monkeypatch):
    """With one short text, no scale has seen what other texts bring."""
    monkeypatch.setattr(quantize_embeddings, "calibration_texts", lambda: ["a"])
    quantize_embeddings.quantize(exported, tmp_path)
    assert judged(reference, opened(tmp_path))[1]


@variants
def test_8_bits_are_nearer_with_smoothing(reference, exported, static, artifacts, monkeypatch):
    monkeypatch.setattr(quantize_embeddings, "EXPONENTS", {"static": (None,)})
    unsmoothed = artifacts.made("minilm-unsmoothed", lambda folder: quantize_embeddings.quantize(exported, folder))
    plain, smooth = (judged(reference, opened(folder))[0] for folder in (unsmoothed, static))
    assert 1 - smooth["cosine"] < (1 - plain["cosine"]) / 2


@variants
def test_a_left_out_operator_breaks_the_floor(reference, exported, tmp_path):
    model = onnx.load(exported / "model.onnx")
    graph = Graph(model)
    (gelu, *_) = [node for node in graph.nodes if node.op_type == "Gelu"]
    graph.replace(gelu, helper.make_node("Identity", gelu.input, gelu.output))
    save(model, exported, tmp_path)
    assert judged(reference, opened(tmp_path))[1]


@variants
def test_pooling_over_padding_breaks_the_floor(reference, exported):
    class Unmasked(OnnxEmbeddings):
        def embed(self, batch):
            ids, mask = padded(batch)
            (found,) = self.session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(mask)})
            return np.asarray(found)

    found, broken = judged(reference, Unmasked(exported, opened(exported).session))
    assert broken
    assert found["alone"] < 0.99


def save(model, like, folder) -> None:
    onnx.save(model, folder / export_onnx.MODEL)
    (folder / "tokenizer.json").write_bytes((like / "tokenizer.json").read_bytes())
