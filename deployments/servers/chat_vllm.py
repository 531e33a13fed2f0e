"""Chat models on vLLM, inside ray.serve.llm's LLMServer.

LLMServer is wrapped, not subclassed, because importing it imports vLLM, which takes 8 s: too long for the builder.
"""

import contextlib
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import psutil

from deployments.servers import chat
from deployments.servers.idling import let_process_idle
from models.specs import VariantSpec

# One compiler of grammars, whatever comes first. By default vLLM chooses another one for a schema that this one does
# not support, and after the first schema of its life it knows one only.
GRAMMARS = {"backend": "xgrammar"}
# MiB of compiled grammars that vLLM keeps; by default 512, which is more than some replicas have to spare.
GRAMMAR_CACHE_MIB = 64
# Tokens of one long prompt that a CPU reads in one step of all requests. By default vLLM reads 2,048: on two cores
# everybody waits 5 s for such a step, and 9 s for a first token behind a prompt of 4,200 tokens. With 128 it is 0.6 s,
# and the long one takes no longer.
PROMPT_STEP = 128
# Of all prompts, for the same reason: vLLM would read 2,048 tokens of many short ones in one step.
PROMPTS_STEP = 256
# Of how many answers the replica passes on a piece before it looks at anything else, such as a newcomer that it has to
# refuse. By default vLLM hands on 128 at once: on a slow core sixteen took it 50 ms. With GPUs there may be
# hundreds in a step, and each look costs a turn of the event loop; the eight was not measured.
PIECES_AT_ONCE_ON_CPUS, PIECES_AT_ONCE = 1, 8


class Server(chat.Server):
    engine: Any
    places_workers = True

    def import_engine(self) -> type[Any]:
        for name, value in environment(self.variant).items():
            os.environ.setdefault(name, value)
        with log_handlers_kept():
            import ray.serve.llm.deployment  # noqa: F401 - imports vLLM

            return super().import_engine()

    async def load(self, engine: type[Any], folder: Path) -> Any:
        config = self.llm_config(str(folder), engine.dtype(self.variant))
        self.server = await start_llm_server(config, several_nodes=self.variant.needs.gpus > 1)
        if not self.variant.needs.gpus:  # with GPUs it hardly computes, and must not wait to feed them
            # The engine only tells its worker what to do; while it waits for a core, so does the worker.
            for child in psutil.Process().children(recursive=True):
                if not child.children():
                    let_process_idle(child.pid)
        return engine(self.spec, self.server.engine)

    def engine_died(self) -> bool:
        return self.engine.client.errored

    def llm_config(self, weights: str, dtype: str) -> dict[str, Any]:
        """The fields of ray.serve.llm's LLMConfig for the model."""
        needs = self.variant.needs
        # Of each step: they are not logged, admission reads them.
        details = {"enable_logging_iteration_details": True}
        config: dict[str, Any] = {
            "model_loading_config": {"model_id": self.spec.id, "model_source": weights},
            "engine_kwargs": {**details, **engine_arguments(self.variant, dtype)},
            "accelerator_config": {"kind": "gpu" if needs.gpus else "cpu"},
            "experimental_configs": {"stream_batching_interval_ms": 0},
            "log_engine_metrics": True,
        }
        if needs.gpus:
            config["placement_group_config"] = {"bundle_per_worker": {"CPU": 1, "GPU": needs.gpus_per_worker}}
        return config


def engine_arguments(variant: VariantSpec, dtype: str) -> dict[str, Any]:
    """vLLM's arguments for a variant. `benchmarks/run.py` gives the same to the servers that it compares."""
    on_cpus = {"long_prefill_token_threshold": PROMPT_STEP, "max_num_batched_tokens": PROMPTS_STEP}
    return {
        "dtype": dtype,
        "disable_log_stats": False,
        "structured_outputs_config": GRAMMARS,
        **({} if variant.needs.gpus else on_cpus),
        **variant.engine,
    }


def environment(variant: VariantSpec) -> dict[str, str]:
    """What vLLM's process has in its environment, before torch is imported."""
    pieces = PIECES_AT_ONCE if variant.needs.gpus else PIECES_AT_ONCE_ON_CPUS
    found = {"VLLM_XGRAMMAR_CACHE_MB": str(GRAMMAR_CACHE_MIB), "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": str(pieces)}
    if not variant.needs.gpus:
        found["MEDLEY_VLLM_WAITS_ASLEEP"] = "1"  # see models/engines/vllm_waiting.py
    if variant.engine.get("enforce_eager") and not variant.needs.gpus:
        # Otherwise vLLM has torch compile its sampler: at the first sampled token, for 13 s, with a C++ compiler.
        found["TORCHDYNAMO_DISABLE"] = "1"
    return found


@contextlib.contextmanager
def log_handlers_kept() -> Iterator[None]:
    """Keep Serve's log handlers working. vLLM sets up logging with dictConfig, which closes all existing handlers, and
    a closed MemoryHandler drops every record, even errors."""
    kept = [(handler, handler.target) for handler in logging.getLogger("ray.serve").handlers if is_buffer(handler)]
    try:
        yield
    finally:
        for handler, target in kept:
            handler.setTarget(target)


def is_buffer(handler: logging.Handler) -> TypeGuard[logging.handlers.MemoryHandler]:
    return isinstance(handler, logging.handlers.MemoryHandler)


async def start_llm_server(config: dict[str, Any], several_nodes: bool) -> Any:
    """Start vLLM under ray.serve.llm. Returns the running LLMServer."""
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    llm_config = LLMConfig.model_validate(config)
    # The weights are already on this node. Otherwise a task on each node would import vLLM only to find that out.
    callback: Any = llm_config.get_or_create_callback()
    callback.ctx.run_init_node = several_nodes
    server = LLMServer.sync_init(llm_config)
    await server.start()
    return server
