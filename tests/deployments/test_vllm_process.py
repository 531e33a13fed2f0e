"""The process that vLLM is imported into."""

import pytest

from deployments.servers.chat_vllm import engine_arguments, environment
from models.catalog import load_catalog

CHAT = load_catalog().resolve("smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("variant", "compiles"),
    [("vllm-cpu", False), ("vllm-cpu-int8", False), ("vllm-cpu-int8-compiled", True), ("vllm", True)],
)
def test_torch_compiles_only_where_the_row_wants_it(variant, compiles):
    assert ("TORCHDYNAMO_DISABLE" not in environment(CHAT.variant(variant))) == compiles


@pytest.mark.parametrize(("variant", "cut"), [("vllm-cpu", True), ("vllm-cpu-int8-compiled", True), ("vllm", False)])
def test_a_long_prompt_is_read_in_small_steps_where_a_step_takes_seconds(variant, cut):
    settings = engine_arguments(CHAT.variant(variant), "bfloat16")
    assert (0 < settings.get("long_prefill_token_threshold", 0) <= 256) == cut
