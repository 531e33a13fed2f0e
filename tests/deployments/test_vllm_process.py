"""The process that vLLM is imported into."""

from importlib.util import find_spec
from pathlib import Path

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


@pytest.mark.parametrize(("variant", "pieces"), [("vllm-cpu", 1), ("vllm-cpu-int8", 1), ("vllm", 8)])
def test_a_newcomer_waits_for_few_pieces_of_others(variant, pieces):
    assert environment(CHAT.variant(variant))["VLLM_V1_OUTPUT_PROC_CHUNK_SIZE"] == str(pieces)


def test_vllm_reads_what_is_set_for_it():
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    known = Path(spec.origin).with_name("envs.py").read_text()
    names = [name for name in environment(CHAT.variant("vllm-cpu")) if name.startswith("VLLM_")]
    assert len(names) == 2
    assert all(f'"{name}"' in known for name in names)
