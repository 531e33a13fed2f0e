"""That vLLM reads the words that `make bench` gives its own server as the arguments that Medley's replica has."""

import pytest

from benchmarks import run as bench
from models.catalog import load_catalog

pytestmark = pytest.mark.models


@pytest.mark.parametrize("name", ["vllm-cpu", "vllm-cpu-int8-kv8"])
def test_vllm_s_command_line_reads_the_same_arguments(name):
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = bench.same_arguments(load_catalog()[bench.CHAT].variant(name))
    parser = make_arg_parser(FlexibleArgumentParser())
    read = parser.parse_args(["--model", "folder", *bench.flags(arguments)])
    grammars = arguments.pop("structured_outputs_config")
    assert {key: getattr(read, key) for key in arguments} == arguments
    assert grammars.items() <= vars(read.structured_outputs_config).items()
