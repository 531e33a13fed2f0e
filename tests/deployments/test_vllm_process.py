"""The process that vLLM is imported into."""

import os

import pytest

from deployments.servers.chat_vllm import compile_nothing_if_eager
from models.catalog import load_catalog

CHAT = load_catalog().resolve("smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("variant", "compiles"),
    [("vllm-cpu", False), ("vllm-cpu-int8", False), ("vllm-cpu-int8-compiled", True), ("vllm", True)],
)
def test_torch_compiles_only_where_the_row_wants_it(monkeypatch, variant, compiles):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    compile_nothing_if_eager(CHAT.variant(variant))
    assert (os.environ.pop("TORCHDYNAMO_DISABLE", None) is None) == compiles
