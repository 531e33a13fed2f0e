"""The process that vLLM is imported into."""

import os

import pytest

from deployments.servers.chat_vllm import Server, compile_nothing_if_eager
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


@pytest.mark.parametrize(("variant", "cut"), [("vllm-cpu", True), ("vllm-cpu-int8-compiled", True), ("vllm", False)])
def test_a_long_prompt_is_read_in_small_steps_where_a_step_takes_seconds(variant, cut):
    server = object.__new__(Server)
    server.spec, server.variant = CHAT, CHAT.variant(variant)
    settings = server.llm_config("folder", "bfloat16")["engine_kwargs"]
    assert (0 < settings.get("long_prefill_token_threshold", 0) <= 256) == cut
