import pytest
from ray.serve._private import constants

from deployments.model import BRIEF_DRAIN, GIB, SERVERS, SERVERS_BY_BACKEND, build, resources, resources_of_llm
from deployments.servers.engine import EngineServer
from deployments.settings import ModelArgs
from models import choice
from models.catalog import load_catalog
from models.registry import import_string
from models.specs import Needs, Task


def test_a_replica_reserves_what_it_needs():
    options = resources(Needs(cpus=0.5, gpus=0.25, memory_gib=1.5), {"A": "1"})
    assert options.keys() == {"ray_actor_options"}
    actor = options["ray_actor_options"]
    assert (actor["num_cpus"], actor["num_gpus"], actor["memory"]) == (0.5, 0.25, int(1.5 * GIB))
    assert actor["runtime_env"]["env_vars"]["A"] == "1"


@pytest.mark.parametrize("options", [resources, resources_of_llm])
def test_a_replica_that_no_load_balancer_knows_drains_briefly(options):
    variables = options(Needs(cpus=1, memory_gib=4), {})["ray_actor_options"]["runtime_env"]["env_vars"]
    ((name, seconds),) = BRIEF_DRAIN.items()
    assert hasattr(constants, name), "Serve has no such setting any more"
    assert variables[name] == seconds
    assert 0 < float(seconds) < 5


def test_an_llm_on_the_cpu_has_one_bundle_without_a_gpu():
    options = resources_of_llm(Needs(cpus=1, memory_gib=4), {})
    assert options["placement_group_bundles"] == [{"CPU": 1, "memory": 4 * GIB}]
    assert options["placement_group_strategy"] == "PACK"
    assert options["ray_actor_options"]["num_gpus"] == 0
    assert "VLLM_RAY_PER_WORKER_GPUS" not in options["ray_actor_options"]["runtime_env"]["env_vars"]


def test_an_llm_on_a_part_of_a_gpu_tells_its_worker_how_much():
    options = resources_of_llm(Needs(cpus=2, gpus=0.1, memory_gib=8), {"A": "1"})
    assert options["placement_group_bundles"] == [{"CPU": 2, "memory": 8 * GIB, "GPU": 0.1}]
    assert options["ray_actor_options"]["num_gpus"] == 0
    assert (
        options["ray_actor_options"]["runtime_env"]["env_vars"].items()
        >= {
            "A": "1",
            "VLLM_RAY_PER_WORKER_GPUS": "0.1",
        }.items()
    )


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_an_llm_on_whole_gpus_has_a_bundle_for_each_worker(gpus):
    options = resources_of_llm(Needs(cpus=4, gpus=gpus, memory_gib=32), {})
    first, *others = options["placement_group_bundles"]
    assert first == {"CPU": 4, "memory": 32 * GIB, "GPU": 1}
    assert others == [{"CPU": 1, "GPU": 1}] * (gpus - 1)
    assert "VLLM_RAY_PER_WORKER_GPUS" not in options["ray_actor_options"]["runtime_env"]["env_vars"]


def test_the_replica_fits_into_the_first_bundle():
    options = resources_of_llm(Needs(cpus=4, gpus=2, memory_gib=32), {})
    first, actor = options["placement_group_bundles"][0], options["ray_actor_options"]
    assert actor["num_cpus"] <= first["CPU"]
    assert actor["memory"] <= first["memory"]


@pytest.mark.parametrize("path", [*SERVERS.values(), *SERVERS_BY_BACKEND.values()])
def test_every_server_that_is_named_exists(path):
    assert issubclass(import_string(path), EngineServer)


def test_every_task_has_a_server():
    assert SERVERS.keys() == set(Task)


@pytest.mark.parametrize(
    ("model", "variant"), [(spec.id, variant) for spec in load_catalog().values() for variant in spec.variants]
)
def test_every_variant_of_the_catalog_builds_an_application(model, variant):
    deployment = build(ModelArgs(model=model, variant=variant))._bound_deployment
    spec = load_catalog()[model]
    assert deployment.name == "model"
    assert deployment.init_args[0].variant == variant
    assert deployment.ray_actor_options["memory"] == int(spec.variants[variant].needs.memory_gib * GIB)


def test_replicas_are_handed_the_variant_that_the_builder_chose(monkeypatch):
    monkeypatch.setattr(choice, "chosen_variant", lambda spec: "torch")
    (args,) = build(ModelArgs(model="all-minilm-l6-v2", variant="auto"))._bound_deployment.init_args
    assert args.variant == "torch"
    (beside,) = build(ModelArgs(model="all-minilm-l6-v2@torch"))._bound_deployment.init_args
    assert (beside.spec.id, beside.variant) == ("all-minilm-l6-v2@torch", "torch")


def test_labels_of_the_node_are_asked_for_where_ray_looks():
    labels = {"ray.io/accelerator-type": "L4"}
    assert resources(Needs(cpus=1, memory_gib=4), {}, labels)["ray_actor_options"]["label_selector"] == labels
    options = resources_of_llm(Needs(cpus=1, gpus=2, memory_gib=4), {}, labels)
    assert options["placement_group_bundle_label_selector"] == [labels]
    assert "label_selector" not in options["ray_actor_options"]
    assert "label_selector" not in resources(Needs(cpus=1, memory_gib=4), {})["ray_actor_options"]
    assert "placement_group_bundle_label_selector" not in resources_of_llm(Needs(cpus=1, memory_gib=4), {})
