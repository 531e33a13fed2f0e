"""Which texts libyaml reads, which is fast and ends the process on what is nested too deeply."""

import pytest
import yaml

from models.documents import loader_for, read_yaml

LEVELS = 3000


@pytest.mark.parametrize(
    "text",
    [
        "- " * LEVELS + "a",
        "? " * LEVELS + "a",
        "[" * LEVELS,
        "{a: " * LEVELS,
        "\n".join(" " * level + "a:" for level in range(LEVELS)),
        "\n".join(" " * (level // 2) + ("- " if level % 2 else "a:") for level in range(LEVELS)),
    ],
)
def test_what_may_be_nested_deeply_is_kept_from_libyaml(text):
    assert loader_for(text) is yaml.SafeLoader


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
@pytest.mark.parametrize("text", ["a: 1\nb: [1, {c: 2}]\n", "description: " + "a long line " * 1000])
def test_what_cannot_be_is_read_fast_and_means_the_same(text):
    assert loader_for(text) is yaml.CSafeLoader
    assert read_yaml(text) == yaml.safe_load(text)
