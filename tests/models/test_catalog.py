"""The catalog that ships, and what is refused of one."""

import importlib.util

import pytest
import yaml

from models.catalog import load_catalog, read_catalog
from models.errors import ModelNotFound
from models.registry import backends_of
from models.tasks import BY_NAME

VARIANTS = [
    pytest.param(spec, variant, id=f"{spec.id}@{name}")
    for spec in load_catalog().values()
    for name, variant in spec.variants.items()
]


def row(**changes):
    return {
        "id": "tiny",
        "task": "chat",
        "title": "Tiny",
        "owner": "nobody",
        "licence": "MIT",
        "source": {"kind": "none"},
        "limits": {"context_tokens": 100},
        "default_variant": "fake",
        "variants": {"fake": {"backend": "fake", "precision": "fp32", "needs": {"cpus": 0, "memory_gib": 0.1}}},
        **changes,
    }


def write(folder, name, *rows):
    (folder / name).write_text(yaml.safe_dump({"models": list(rows)}))


def test_the_shipped_catalog_loads():
    catalog = load_catalog()
    assert catalog.of_task(BY_NAME["chat"])
    assert catalog.of_task(BY_NAME["embeddings"])
    assert catalog.resolve("smollm2-135m-instruct").title == "SmolLM2 135M Instruct"
    assert len(catalog) == len(list(catalog))


@pytest.mark.parametrize(("spec", "variant"), VARIANTS)
def test_every_variant_has_an_engine(spec, variant):
    assert variant.backend in backends_of(spec.task)


@pytest.mark.parametrize(("spec", "variant"), [case for case in VARIANTS if case.values[1].artifact])
def test_every_maker_is_there(spec, variant):
    """Looked for in the source: importing it would import torch."""
    module, _, function = variant.artifact.maker.partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert f"def {function}(" in found.loader.get_source(module)


@pytest.mark.parametrize(("asked", "suggested"), [("smollm2", "smollm2-135m-instruct"), ("bge-m4", "bge-m3")])
def test_an_unknown_id_is_answered_with_the_nearest(asked, suggested):
    with pytest.raises(ModelNotFound) as caught:
        load_catalog().resolve(asked)
    assert suggested in caught.value.message
    assert caught.value.param == "model"


@pytest.mark.parametrize("asked", ["", "zzzzqqqq", "x" * 10_000])
def test_an_id_like_no_other_is_answered_with_the_way_to_list_them(asked):
    with pytest.raises(ModelNotFound) as caught:
        load_catalog().resolve(asked)
    assert "/v1/models" in caught.value.message
    assert len(caught.value.message) < 300


def test_a_row_is_read(tmp_path):
    write(tmp_path, "chat.yaml", row())
    assert list(read_catalog(tmp_path)) == ["tiny"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"limits": {"context_tokens": 100, "inptus": 1}}, "inptus"),
        ({"limits": {}}, "context_tokens"),
        ({"task": ["chat"]}, "task"),
        ({"task": "chatt"}, "task(?s:.*)'chat' or 'embeddings'"),
        ({"id": "Not An Id"}, "id"),
        ({"default_variant": "other"}, "default_variant"),
        ({"source": {"kind": "hub", "repo": "a/b"}}, "revision"),
    ],
)
def test_a_wrong_row_is_refused_by_name(tmp_path, changes, named):
    write(tmp_path, "chat.yaml", row(**changes))
    with pytest.raises(ValueError, match=named):
        read_catalog(tmp_path)


def test_gpus_above_one_are_whole(tmp_path):
    write(tmp_path, "chat.yaml", row())
    rows = row()
    rows["variants"]["fake"]["needs"]["gpus"] = 1.5
    write(tmp_path, "chat.yaml", rows)
    with pytest.raises(ValueError, match="whole number"):
        read_catalog(tmp_path)


def test_an_embedding_model_states_its_dimensions(tmp_path):
    write(tmp_path, "embeddings.yaml", row(task="embeddings"))
    with pytest.raises(ValueError, match="dimensions"):
        read_catalog(tmp_path)


def test_a_model_in_the_file_of_another_task_is_refused(tmp_path):
    write(tmp_path, "embeddings.yaml", row())
    with pytest.raises(ValueError, match=r"embeddings\.yaml holds tiny, whose task is chat"):
        read_catalog(tmp_path)


def test_an_id_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path, "chat.yaml", row(), row())
    with pytest.raises(ValueError, match="tiny twice"):
        read_catalog(tmp_path)


def test_an_unknown_variant_is_answered_with_those_there_are():
    with pytest.raises(KeyError, match="vllm-cpu"):
        load_catalog().resolve("smollm2-135m-instruct").variant("nope")
