"""The grammar that vLLM will compile for a request, tried before vLLM sees it."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import xgrammar
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.request import get_structured_output_key

from models.errors import InvalidRequest, UnsupportedParameter
from models.grammars.trials import Kind, Trials

KINDS: dict[StructuredOutputOptions, Kind] = {
    StructuredOutputOptions.JSON: "json",
    StructuredOutputOptions.STRUCTURAL_TAG: "tag",
}


class Grammars:
    """
    Args:
        parser: vLLM's class for tool calls and reasoning, which writes the grammar of calls; None if there is none.
    """

    def __init__(self, tokenizer: Any, model_config: Any, parser: Any):
        self.tokenizer = tokenizer
        self.model_config = model_config
        self.parser = parser
        self.trials = Trials(partial(vocabulary, tokenizer, model_config.get_vocab_size()))

    async def check(self, request: Any) -> None:
        """
        Args:
            request: vLLM's own, for chat or text completion.

        Raises:
            InvalidRequest: its grammar cannot be compiled, or not within the limits.
            RateLimited, Unavailable: it cannot be tried now.
        """
        tools = bool(getattr(request, "tools", None)) and request.tool_choice != "none"
        if not tools and request.response_format is None:
            return
        param = "response_format.json_schema.schema"
        if tools and self.parser is not None:
            request = self.with_calls(request)
            if request.structured_outputs is not None:
                param = "tools"
            elif request.tool_choice == "auto" and any(tool.function.strict for tool in request.tools):
                raise UnsupportedParameter(
                    "This model does not hold calls that it chooses itself to their schema. Leave strict out, or set "
                    "tool_choice to required.",
                    "tools",
                )
        wanted = request.extract_structured_outputs()
        if wanted is None:
            return
        option, text = get_structured_output_key(wanted)
        if option in KINDS:
            await self.trials.check(KINDS[option], text, param)

    def with_calls(self, request: ChatCompletionRequest) -> ChatCompletionRequest:
        """The request with the grammar of its tool calls, as vLLM will write it. The original is left as it is."""
        copy = request.model_copy(update={"tools": deepcopy(request.tools)})
        try:
            parser = self.parser(self.tokenizer, copy.tools, model_config=self.model_config, chat_template_kwargs={})
            return parser.adjust_request(request=copy)
        except ValueError:  # what vLLM says is not written for clients
            raise InvalidRequest(
                "These tools cannot be called together: each definition in $defs must mean the same in all of them, "
                "and tool_choice must name one of them.",
                "tools",
            ) from None


def vocabulary(tokenizer: Any, size: int) -> str:
    return xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size).serialize_json()
