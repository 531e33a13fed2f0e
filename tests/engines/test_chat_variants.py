"""How variants of language models are compared, and what they are made by; on tiny networks."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from models.catalog import load_catalog
from models.engines import transformers_quantization
from models.engines.transformers_quantization import WAYS, quantization_config
from models.specs import Backend
from models.tasks import BY_NAME
from workshop.evaluation import chat_answers, chat_texts
from workshop.evaluation.chat import MEASURES, common_prefix, compare
from workshop.variants import quantize_chat


def answers(logprobs, likeliest, greedy, right=(True, True, False)):
    return {
        "logprobs": np.array(logprobs),
        "likeliest": np.array(likeliest),
        "greedy": np.array(greedy),
        "right": np.array(right),
    }


def test_a_variant_that_answers_the_same_is_perfect():
    same = answers([-1.0, -2.0], [5, 6], [[1, 2, -1]])
    assert compare(same, same) == {
        "perplexity": pytest.approx(np.exp(1.5)),
        "perplexity_ratio": 1,
        "agreement": 1,
        "greedy_prefix": 1,
        "facts_kept": 1,
    }


def test_every_measure_says_how_far_a_variant_is():
    reference = answers([-1.0, -2.0, -1.0, -2.0], [5, 6, 7, 8], [[1, 2, 3, -1], [4, 5, 6, 7]])
    worse = answers([-1.0, -2.0, -1.0, -2.4], [5, 6, 9, 8], [[1, 2, 9, -1], [9, 5, 6, 7]], (True, False, True))
    found = compare(reference, worse)
    assert found["perplexity_ratio"] == pytest.approx(np.exp(0.1))
    assert found["agreement"] == 0.75
    assert found["greedy_prefix"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["facts_kept"] == 0.5  # what the reference did not know makes up for nothing
    assert set(found) == set(MEASURES)


def test_a_reference_that_knows_nothing_says_nothing_of_facts():
    ignorant = answers([-1.0], [1], [[1]], (False, False))
    assert "facts_kept" not in compare(ignorant, answers([-1.0], [1], [[1]], (True, False)))


@pytest.mark.parametrize("wrong", [-np.inf, np.nan, -1000.0])
def test_a_variant_that_is_lost_keeps_no_floor(wrong):
    reference = answers([-1.0, -1.0], [1, 1], [[1]])
    found = compare(reference, answers([-1.0, wrong], [1, 1], [[1]]))
    assert not MEASURES["perplexity_ratio"].keeps(found["perplexity_ratio"], 1.05)


def test_what_follows_a_different_token_counts_for_nothing():
    assert common_prefix(np.array([[1, 2, 3, 4]]), np.array([[1, 9, 3, 4]])) == 0.25
    assert common_prefix(np.array([[1, 2, -1, -1]]), np.array([[1, 2, 3, -1]])) == 1
    assert common_prefix(np.array([[-1, -1]]), np.array([[3, -1]])) == 0
    assert chat_answers.rows([[1], list(range(99))]).shape == (2, chat_texts.GREEDY)


class Letters:
    """A tokenizer of characters."""

    bos_token_id = 0

    def __call__(self, text, **options):
        return {"input_ids": [ord(letter) for letter in text]}


def test_the_text_is_read_once_and_whole():
    windows = chat_texts.windows(Letters())
    assert {len(window) for window in windows} == {chat_texts.WINDOW}
    assert all(window[0] == 0 for window in windows)
    read = "".join(chr(token) for window in windows for token in window[1:])
    assert chat_texts.text().startswith(read)
    assert len(chat_texts.text()) - len(read) < chat_texts.WINDOW


class Words(Letters):
    def batch_decode(self, answers, **options):
        return ["".join(map(chr, tokens)) for tokens in answers]


def test_an_answer_is_right_if_it_has_the_word_by_itself():
    said = dict.fromkeys(chat_texts.FACTS, "I do not know.")
    said["What is the capital of France?"] = "It is PARIS, of course."
    said["What is the capital of Italy?"] = "Romes"
    said["What is the chemical formula of water?"] = "H2O."
    said["What is 2 plus 2?"] = "2 plus 2 is 14"
    said["What is 12 plus 30?"] = "42"
    answered = [[ord(letter) for letter in text] for text in (*said.values(), "Paris")]
    right = chat_texts.right(Words(), answered)
    assert [question for question, known in zip(chat_texts.FACTS, right, strict=True) if known] == [
        "What is the capital of France?",
        "What is the chemical formula of water?",
        "What is 12 plus 30?",
    ]


def test_requests_differ_from_turn_to_turn_and_begin_differently():
    asked = [tuple(tokens) for turn in range(20) for tokens in chat_texts.requests(Letters(), 8, turn)]
    assert {len(tokens) for tokens in asked} == {chat_texts.ASKED}
    assert len(set(asked)) == len(asked)
    assert chat_texts.requests(Letters(), 8, 3) == chat_texts.requests(Letters(), 8, 3)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, weights in model.named_parameters():
        if "norm" in name:
            weights.data.uniform_(0.5, 2)
    model.get_input_embeddings().weight.data.mul_(20)
    return model


@torch.no_grad()
def scores(model):
    return model(input_ids=torch.arange(3, 60)[None]).logits


def test_what_is_done_before_rounding_changes_nothing_that_is_said(tiny):
    before, embeddings = scores(tiny), tiny.get_input_embeddings().weight.detach().clone()
    quantize_chat.untie_output(tiny)
    quantize_chat.fold_norms(tiny)
    quantize_chat.rotate(tiny)
    assert not torch.allclose(tiny.get_input_embeddings().weight, embeddings, atol=0.1)
    torch.testing.assert_close(scores(tiny), before, atol=1e-3, rtol=1e-3)


def test_rotating_spreads_a_channel_that_is_far_larger_than_the_others(tiny):
    embeddings = tiny.get_input_embeddings().weight
    embeddings.data[:, 7] = 300
    quantize_chat.untie_output(tiny)
    before = (embeddings.abs().amax(1) / embeddings.abs().mean(1)).mean()
    quantize_chat.fold_norms(tiny)
    quantize_chat.rotate(tiny)
    assert (embeddings.abs().amax(1) / embeddings.abs().mean(1)).mean() < before / 4


def test_a_quantized_model_is_written_in_int8_near_the_weights_it_had(tiny, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    tiny.save_pretrained(source)
    (source / "tokenizer.json").write_text("{}")
    target.mkdir()
    quantize_chat.quantize_int8(source, target)

    weights, config = load_file(target / "model.safetensors"), json.loads((target / "config.json").read_text())
    assert (target / "tokenizer.json").exists()
    assert config["quantization_config"]["format"] == "int-quantized"
    assert config["tie_word_embeddings"] is False
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    kept = {name for name in weights if name.endswith("down_proj.weight")}
    assert {weights[name].dtype for name in kept} == {torch.bfloat16}
    read = {name for name in weights if name.endswith("proj.weight")} - kept | {"lm_head.weight"}
    assert len(read) == 2 * 6 + 1
    for name in read:
        assert weights[name].dtype == torch.int8
        assert weights[name].int().abs().amax(1).min() >= 126  # each channel uses all of its steps
        assert weights[name.replace("weight", "weight_scale")].shape == (len(weights[name]), 1)
    # The output layer is the embeddings' copy, rotated with them, behind the scaling of the norm.
    output = weights["lm_head.weight"].float() * weights["lm_head.weight_scale"]
    scaled = (tiny.get_input_embeddings().weight * tiny.model.norm.weight) @ quantize_chat.random_rotation(64)
    assert (output - scaled).norm() / scaled.norm() < 0.02


def test_a_model_that_is_built_in_another_way_is_refused(tmp_path):
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gpt2"):
        quantize_chat.quantize_int8(tmp_path, tmp_path)


def test_an_unknown_way_to_quantize_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="torchao-int8-weights"):
        quantization_config("int9", gpu=True)


@pytest.mark.parametrize("way", [way for way, (_, needs_gpu, _) in WAYS.items() if needs_gpu])
def test_what_has_no_cpu_kernels_is_refused_without_a_gpu(way):
    with pytest.raises(RuntimeError, match="no CPU kernels"):
        quantization_config(way, gpu=False)


@pytest.mark.parametrize("way", WAYS)
def test_a_library_that_is_absent_is_named_with_the_way_to_install_it(way, monkeypatch):
    monkeypatch.setattr(transformers_quantization, "find_spec", lambda library: None)
    library = WAYS[way][0]
    with pytest.raises(RuntimeError, match=f"pip install {library}"):
        quantization_config(way, gpu=True)


def test_transformers_takes_every_configuration(monkeypatch):
    monkeypatch.setattr(transformers_quantization, "find_spec", lambda library: True)
    methods = {way: quantization_config(way, gpu=True).quant_method for way in WAYS}
    assert all(methods[way] == ("torchao" if way.startswith("torchao") else "bitsandbytes") for way in WAYS)


def test_every_row_names_a_way_there_is():
    rows = [variant for spec in load_catalog().of_task(BY_NAME["chat"]) for variant in spec.variants.values()]
    ways = [row.engine["quantization"] for row in rows if row.backend is Backend.TRANSFORMERS and row.engine]
    assert set(ways) <= set(WAYS)
    assert len(ways) > 3
    for row in rows:
        if row.backend is Backend.TRANSFORMERS and (way := row.engine.get("quantization")):
            assert not WAYS[way][1] or row.needs.gpus
