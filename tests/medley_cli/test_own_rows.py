"""Rows that an operator adds to the catalog, in the folder that MEDLEY_CATALOG names."""

import pytest
import yaml
from seeded_mistakes import SERVE, shipped

from medley.checks.command import default_files, problems_of
from medley.checks.config import ConfigError, read_config
from medley.local.home import cluster_environment
from models.catalog import FOLDER, load_catalog, read_catalog

SHIPPED = "all-minilm-l6-v2"


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Adds a row, and has the catalog read again; what was read before is not changed by it."""
    folder = tmp_path / "mine"
    folder.mkdir()

    def write(**changes):
        row = {
            "id": "my-model",
            "task": "chat",
            "title": "Mine",
            "owner": "me",
            "licence": "MIT",
            "source": {"kind": "none"},
            "limits": {"context_tokens": 100},
            "default_variant": "fake",
            "variants": {"fake": {"backend": "fake", "precision": "fp32", "needs": {"cpus": 0, "memory_gib": 0.1}}},
        }
        (folder / "chat.yaml").write_text(yaml.safe_dump({"models": [row | changes]}))
        load_catalog.cache_clear()
        return folder / "chat.yaml"

    monkeypatch.setenv("MEDLEY_CATALOG", str(folder))
    yield write
    load_catalog.cache_clear()


@pytest.fixture
def config(tmp_path):
    """A serve config with one more model."""
    document = yaml.safe_load(shipped(SERVE))
    (chat,) = [one for one in document["applications"] if one["name"] == "smollm2-135m-instruct"]
    mine = {**chat, "name": "my-model", "args": {"model": "my-model", "release": "1"}}
    file = tmp_path / SERVE
    file.write_text(yaml.safe_dump(document | {"applications": [mine, *document["applications"]]}))
    return file


def test_they_stand_beside_those_that_ship(add):
    add()
    catalog = load_catalog()
    assert list(catalog) == [*read_catalog(FOLDER), "my-model"]
    assert catalog.resolve("my-model").title == "Mine"


def test_a_config_may_name_them(add, config):
    add()
    assert read_config(config).models[0].app == "my-model"


def test_without_the_variable_their_models_do_not_exist(add, config, monkeypatch):
    add()
    monkeypatch.delenv("MEDLEY_CATALOG")
    load_catalog.cache_clear()
    with pytest.raises(ConfigError, match="the model 'my-model' does not exist"):
        read_config(config)


def test_they_are_checked_like_those_that_ship(add, config):
    file = add(ownr="me")
    assert file in default_files()
    for checked in (file, config):  # a config is not served with a broken catalog
        (problem,) = problems_of(checked)
        assert problem.path == file
        assert problem.message.startswith("there is no such setting")


def test_an_id_that_ships_is_not_taken_again(add):
    file = add(id="smollm2-135m-instruct")
    (problem,) = problems_of(file)
    assert "Medley's own chat.yaml already has a model smollm2-135m-instruct" in problem.message
    with pytest.raises(ValueError, match="twice"):
        load_catalog()


def test_a_folder_that_is_not_there_is_a_problem(add, config, monkeypatch):
    monkeypatch.setenv("MEDLEY_CATALOG", "/nowhere/at/all")
    load_catalog.cache_clear()
    (problem,) = problems_of(config)
    assert "/nowhere/at/all is not there" in problem.message


def test_processes_of_the_cluster_find_the_folder_from_wherever_they_run(add, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDLEY_CATALOG", "mine")
    assert cluster_environment()["MEDLEY_CATALOG"] == str(tmp_path / "mine")
    monkeypatch.delenv("MEDLEY_CATALOG")
    assert "MEDLEY_CATALOG" not in cluster_environment()
