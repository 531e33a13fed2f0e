"""The Helm chart of an overlay: the overlay's objects, and values that change what they name and nothing else."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medley.k8s.chart import chart, name_of_image
from medley.k8s.command import app, problems_of
from medley.k8s.overlays import name_of, of_kind, overlay_of, render

ROOT = Path(__file__).resolve().parents[2]
HELM = Path(sys.executable).with_name("helm")
DIGEST = "sha256:" + "ab" * 32
NAMES = ("cpu-dev", "gpu-prod", "gpu-prod-incremental")


@pytest.fixture(scope="module", params=NAMES)
def overlay(request, tmp_path_factory):
    """Name, objects by name, and the folder of the chart."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        done = CliRunner().invoke(app, ["chart", request.param, str(folder)])
        assert done.exit_code == 0, done.output
        return request.param, by_name(render(overlay_of(request.param))), folder


def by_name(objects):
    return {name_of(one): one for one in objects}


def helm(command, *arguments):
    return subprocess.run([str(HELM), command, *map(str, arguments)], capture_output=True, text=True, check=False)


def template(folder, *arguments):
    done = helm("template", "medley", folder, "--namespace", "medley", *arguments)
    assert done.returncode == 0, done.stderr
    return by_name(one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one)


def test_helm_makes_what_kustomize_makes(overlay):
    _, objects, folder = overlay
    made = template(folder)
    assert set(objects) - set(made) == {"Namespace medley"}
    for name, one in made.items():
        assert one == objects[name], name


def test_helm_finds_nothing_wrong(overlay):
    done = helm("lint", "--strict", overlay[2])
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_value_changes_its_places_and_nothing_else(overlay, tmp_path):
    """All at once, each to something that no other one has."""
    _, objects, folder = overlay
    wanted = set()
    changed = yaml.safe_load((folder / "values.yaml").read_text())
    for number, (path, value) in enumerate(leaves(copy.deepcopy(changed))):
        other = value + 1000 + number if isinstance(value, int) else f"other-{number}-{value}"
        wanted.add((value, other))
        put(changed, path, other)
    assert wanted
    assert differences(objects, folder, tmp_path, changed) == wanted


@pytest.mark.matrix
def test_one_value_changes_its_places_and_nothing_else(overlay, tmp_path):
    _, objects, folder = overlay
    for path, value in leaves(yaml.safe_load((folder / "values.yaml").read_text())):
        other = value + 1 if isinstance(value, int) else f"other-{value}"
        assert differences(objects, folder, tmp_path, nested(path, other)) == {(value, other)}, path


def differences(objects, folder, scratch, values):
    """Pairs of what is in the overlay and what the chart makes of these values instead."""
    (scratch / "values.yaml").write_text(yaml.safe_dump(values))
    changed = template(folder, "--values", scratch / "values.yaml")
    return {pair for name, one in changed.items() for pair in differing(objects[name], one)}


def test_the_namespace_is_the_releases(overlay):
    _, _, folder = overlay
    done = helm("template", "medley", folder, "--namespace", "elsewhere")
    spaces = {one["metadata"].get("namespace") for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one}
    assert "elsewhere" in spaces
    assert spaces <= {"elsewhere", None}


def test_a_changed_chart_has_no_mistake(overlay, monkeypatch):
    name, _, folder = overlay
    monkeypatch.chdir(ROOT)
    group = next(iter(yaml.safe_load((folder / "values.yaml").read_text())["groups"]))
    mirrored = f"images.cpu=mirror.example.com/m:1-cpu@{DIGEST}"
    made = template(folder, "--set", f"groups.{group}.maxReplicas=7", "--set", mirrored)
    (service,) = of_kind(list(made.values()), "RayService")
    sizes = {one["groupName"]: one["maxReplicas"] for one in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    assert sizes[group] == 7
    assert [str(finding) for finding in problems_of(list(made.values()))] == [], name


@pytest.mark.parametrize("setting", ["imagse.cpu=x", "groups.cpu.maxReplicsa=3", "groups.cpu.maxReplicas=many"])
def test_a_misspelt_value_is_refused(overlay, setting):
    done = helm("template", "medley", overlay[2], "--set", setting)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_braces_of_others_stay(tmp_path):
    one = {
        "kind": "ConfigMap",
        "metadata": {"name": "x", "namespace": "medley"},
        "data": {"a": "{{ $value }} }} {{b}}"},
    }
    for file, text in chart("x", [one]).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert template(tmp_path)["ConfigMap x"] == one


def test_a_folder_of_somebody_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "letter.txt").write_text("dear")
    done = CliRunner().invoke(app, ["chart", "cpu-dev", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not a chart" in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_images_by_their_use():
    assert name_of_image("registry.example.com:5000/team/medley:0.1.0-cuda") == "cuda"
    assert name_of_image("medley:0.1.0-cpu") == "cpu"
    assert name_of_image("docker.io/library/redis:7.4.2-bookworm") == "redis"
    assert name_of_image(f"registry.example.com:5000/team/medley:0.1.0-cuda@{DIGEST}") == "cuda"
    assert name_of_image(f"redis@{DIGEST}") == "redis"


def leaves(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def put(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def differing(one, other):
    """Pairs of leaves that differ."""
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        for key in one:
            yield from differing(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for a, b in zip(one, other, strict=True):
            yield from differing(a, b)
    elif one != other:
        yield (one, other) if not isinstance(one, (dict, list)) else (json.dumps(one), json.dumps(other))
