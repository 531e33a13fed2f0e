import re
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.settings import RouterArgs
from medley.checks.config import ConfigError, read_config
from medley.checks.entries import MODEL_BUILDER
from models.registry import import_string

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted(REPOSITORY.glob("serve_config*.yaml"))
ROUTER_BUILDER = "deployments.router.ingress:build"


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def file(request) -> Path:
    return request.param


@pytest.fixture
def document(file) -> dict:
    return yaml.safe_load(file.read_text())


def test_the_starter_configuration_is_there():
    assert REPOSITORY / "serve_config.yaml" in FILES


def test_ray_serve_takes_the_file(document):
    schema = ServeDeploySchema.model_validate(document)
    assert [application.name for application in schema.applications] == [
        application["name"] for application in document["applications"]
    ]


def test_medley_takes_the_file_and_finds_every_model(file, document):
    models = [application for application in document["applications"] if application["import_path"] == MODEL_BUILDER]
    assert [(model.app, model.spec.id) for model in read_config(file).models] == [
        (application["name"], application["args"]["model"]) for application in models
    ]


def test_every_application_is_named_after_its_model(file):
    models = read_config(file).models
    assert models
    assert [model.app for model in models] == [model.spec.id for model in models]


def test_one_router_has_the_only_route(document):
    (router,) = [app for app in document["applications"] if app["import_path"] == ROUTER_BUILDER]
    RouterArgs.model_validate(router["args"])
    assert router["route_prefix"] == "/"
    others = [app for app in document["applications"] if app is not router]
    assert [app["route_prefix"] for app in others] == [None] * len(others)


def test_every_application_configures_the_deployment_it_has(document):
    for application in document["applications"]:
        name = "model" if application["import_path"] == MODEL_BUILDER else "router"
        assert [deployment["name"] for deployment in application["deployments"]] == [name]


def test_every_autoscaling_policy_can_be_made(document):
    policies = [
        deployment["autoscaling_config"]["policy"]
        for application in document["applications"]
        for deployment in application["deployments"]
        if "autoscaling_config" in deployment
    ]
    assert policies
    for policy in policies:
        assert callable(import_string(policy["policy_function"])(**policy["policy_kwargs"]))


STARTER = (REPOSITORY / "serve_config.yaml").read_text()


@pytest.fixture
def edited(tmp_path):
    """The starter configuration with one text replaced by another, as a file."""

    def edit(old: str, new: str) -> Path:
        assert old in STARTER
        file = tmp_path / "edited.yaml"
        file.write_text(STARTER.replace(old, new, 1))
        return file

    return edit


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("args: {model: all-minilm-l6-v2,", "args: {model: all-minilm-l6,", "Did you mean all-minilm-l6-v2"),
        ("variant: onnx,", "variant: onyx,", "has no variant 'onyx'; it has onnx"),
        ("- name: all-minilm-l6-v2", "- name: minilm", "minilm serves all-minilm-l6-v2. Name it all-minilm-l6-v2"),
        ("applications:", "aplications:", "names no applications"),
        ("proxy_location: HeadOnly", "proxy_location: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_refused_in_words(edited, old, new, message):
    file = edited(old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("key", ["modell", "varient"])
def test_an_argument_that_does_not_exist_is_refused_by_name(edited, key):
    file = edited("args: {model: all-minilm-l6-v2,", f"args: {{model: all-minilm-l6-v2, {key}: onnx,")
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert key in str(caught.value)


def test_a_mistake_in_an_application_is_refused_with_its_name(edited):
    with pytest.raises(ConfigError, match="application all-minilm-l6-v2"):
        read_config(edited("variant: onnx,", "variant: onyx,"))


@pytest.mark.parametrize("text", ["", "5", "[]", "applications:\n", "applications: []\n", "just text"])
def test_a_file_without_applications_is_refused(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="names no applications"):
        read_config(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'none.yaml'} cannot be read")):
        read_config(tmp_path / "none.yaml")


def test_a_reload_of_the_proxy_cuts_no_request_that_may_still_run(document):
    """HAProxy is reloaded by each deploy. Its old process ends what it has, and cuts what lasts longer than this."""
    arguments = {one["name"]: one.get("args") or {} for one in document["applications"]}["router"]
    variables = document["controller_options"]["runtime_env"]["env_vars"]
    longest_s = RouterArgs.model_validate(arguments).deadline_s
    assert float(variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= longest_s
