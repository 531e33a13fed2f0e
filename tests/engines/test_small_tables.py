"""Models whose tokenizers know more tokens than their embedding tables have rows: no such id reaches the table."""

import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from starters import CHAT, EMBEDDINGS, row
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from deployments.servers.embeddings import Server
from deployments.servers.lengths import Lengths
from models.engines.chat_transformers import Engine as TransformersChat
from models.engines.embeddings_onnx import Engine as ONNXEmbeddings
from models.engines.embeddings_torch import Engine as TorchEmbeddings
from models.errors import InvalidRequest
from models.tasks.chat import GenerationRequest
from models.tasks.embeddings import EmbeddingRequest
from models.tasks.tokens import TokenizeRequest

KNOWN, NEW = 8, "<new>"
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
WORDS = {**{f"w{number}": number for number in range(KNOWN)}, NEW: KNOWN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture(scope="module")
def chat(folder, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("chat")
    LlamaForCausalLM(LlamaConfig(vocab_size=KNOWN, eos_token_id=1, **SIZES)).save_pretrained(checkpoint)
    for file in folder.iterdir():
        (checkpoint / file.name).symlink_to(file)
    return TransformersChat.load(*row(CHAT, "transformers"), checkpoint)


async def complete(engine, **body):
    return [item async for item in engine.complete(GenerationRequest({"max_tokens": 1, **body}, "r"))]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [KNOWN]}, "prompt"),
        ({"prompt": [[1], [KNOWN]]}, "prompt[1]"),
        ({"prompt": f"w1 {NEW}"}, "prompt"),
        ({"prompt": ["w1", NEW]}, "prompt"),
    ],
)
async def test_chat_refuses_them_as_ids_and_as_text(chat, body, param):
    with pytest.raises(InvalidRequest) as caught:
        await complete(chat, **body)
    assert caught.value.param == param
    assert await complete(chat, prompt=[KNOWN - 1])


async def test_chat_neither_makes_nor_reads_them(chat):
    with pytest.raises(InvalidRequest):
        await chat.detokenize([KNOWN])
    with pytest.raises(InvalidRequest):
        await chat.tokenize(TokenizeRequest(NEW))


class Session:
    """An ONNX graph with a table of so many rows."""

    def __init__(self, rows=KNOWN):
        self.table = torch.eye(rows).numpy()
        self.failed = 0

    def run(self, names, inputs):
        ids = inputs["input_ids"]
        if ids.max() >= len(self.table):
            self.failed += 1
            raise RuntimeError("indices element out of data bounds")
        return [self.table[ids].sum(axis=1)]


def torch_engine(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    BertModel(BertConfig(vocab_size=KNOWN, **SIZES)).save_pretrained(tmp_path)
    return TorchEmbeddings(tmp_path, "cpu", torch.float32, "mean")


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("truncate", [None, 5])
async def test_embeddings_refuse_them_as_ids_and_as_text(folder, tmp_path, backend, truncate):
    server = object.__new__(Server)
    server.lengths = Lengths()
    server.engine = (
        ONNXEmbeddings(folder, cast(Any, Session())) if backend == "onnx" else torch_engine(folder, tmp_path)
    )
    server.spec = row(EMBEDDINGS)[0]
    assert server.engine.vocabulary_size == KNOWN
    for wrong in ((KNOWN,), f"w1 {NEW}"):
        with pytest.raises(InvalidRequest) as caught:
            await server._encode(EmbeddingRequest((f"w{KNOWN - 1}", wrong), truncate))
        assert caught.value.param == "input[1]"


@pytest.mark.parametrize("rows", [1, 2, 7, KNOWN, KNOWN + 1, 50])
def test_the_rows_of_a_graph_are_found_by_trying(folder, rows):
    engine = ONNXEmbeddings(folder, cast(Any, session := Session(rows)))
    assert engine.vocabulary_size == min(rows, len(WORDS))
    failed = session.failed
    assert np.isfinite(engine.embed([[engine.vocabulary_size - 1]])).all()
    assert session.failed == failed


def test_a_graph_that_fails_on_anything_does_not_load(folder):
    with pytest.raises(RuntimeError, match="out of data bounds"):
        ONNXEmbeddings(folder, cast(Any, Session(0)))
