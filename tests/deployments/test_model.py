import pytest
from ray.serve._private import constants

from deployments.model import BRIEF_DRAIN, GIB, build, resources, resources_of_workers, server_class
from deployments.servers import batch
from deployments.settings import ModelArgs
from models import choice
from models.catalog import load_catalog
from models.specs import Backend, Needs
from models.tasks import chat, styles
from models.tasks.methods import Unary
from models.tasks.task import Settings, Task
from models.tasks.tokens import DETOKENIZE, TOKENIZE


def test_a_replica_reserves_what_it_needs():
    options = resources(Needs(cpus=0.5, gpus=0.25, memory_gib=1.5), {"A": "1"})
    assert options.keys() == {"ray_actor_options"}
    actor = options["ray_actor_options"]
    assert (actor["num_cpus"], actor["num_gpus"], actor["memory"]) == (0.5, 0.25, int(1.5 * GIB))
    assert actor["runtime_env"]["env_vars"]["A"] == "1"


@pytest.mark.parametrize("options", [resources, resources_of_workers])
def test_a_replica_that_no_load_balancer_knows_drains_briefly(options):
    variables = options(Needs(cpus=1, memory_gib=4), {})["ray_actor_options"]["runtime_env"]["env_vars"]
    ((name, seconds),) = BRIEF_DRAIN.items()
    assert hasattr(constants, name), "Serve has no such setting any more"
    assert variables[name] == seconds
    assert 0 < float(seconds) < 5


def test_an_llm_on_the_cpu_has_one_bundle_without_a_gpu():
    options = resources_of_workers(Needs(cpus=1, memory_gib=4), {})
    assert options["placement_group_bundles"] == [{"CPU": 1, "memory": 4 * GIB}]
    assert options["placement_group_strategy"] == "PACK"
    assert options["ray_actor_options"]["num_gpus"] == 0
    assert "VLLM_RAY_PER_WORKER_GPUS" not in options["ray_actor_options"]["runtime_env"]["env_vars"]


def test_an_llm_on_a_part_of_a_gpu_tells_its_worker_how_much():
    options = resources_of_workers(Needs(cpus=2, gpus=0.1, memory_gib=8), {"A": "1"})
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
    options = resources_of_workers(Needs(cpus=4, gpus=gpus, memory_gib=32), {})
    first, *others = options["placement_group_bundles"]
    assert first == {"CPU": 4, "memory": 32 * GIB, "GPU": 1}
    assert others == [{"CPU": 1, "GPU": 1}] * (gpus - 1)
    assert "VLLM_RAY_PER_WORKER_GPUS" not in options["ray_actor_options"]["runtime_env"]["env_vars"]


def test_the_replica_fits_into_the_first_bundle():
    options = resources_of_workers(Needs(cpus=4, gpus=2, memory_gib=32), {})
    first, actor = options["placement_group_bundles"][0], options["ray_actor_options"]
    assert actor["num_cpus"] <= first["CPU"]
    assert actor["memory"] <= first["memory"]


@pytest.mark.parametrize(
    ("task", "backend", "module"),
    [(chat.TASK, Backend.VLLM, "chat_vllm"), (chat.TASK, Backend.FAKE, "chat"), (styles.TASK, Backend.ONNX, "styles")],
)
def test_a_server_is_found_by_task_and_backend_then_by_task(task, backend, module):
    assert server_class(task, backend).__module__ == f"deployments.servers.{module}"


def test_a_task_without_a_server_of_its_own_has_the_one_for_batches():
    method = Unary("count", str, int)
    task = Task("counting", Settings, (method,), (), lambda settings: ())
    assert server_class(task, Backend.FAKE) is batch.Server


@pytest.mark.parametrize("methods", [(), (chat.CHAT,), (TOKENIZE, DETOKENIZE)])
def test_a_task_that_the_server_for_batches_cannot_serve_needs_one_of_its_own(methods):
    task = Task("counting", Settings, methods, (), lambda settings: ())
    with pytest.raises(TypeError, match="counting has the methods"):
        server_class(task, Backend.FAKE)


def test_a_server_that_does_not_handle_a_method_is_named_with_it():
    task = Task("styles", Settings, (*styles.TASK.methods, TOKENIZE), (), lambda settings: ())
    with pytest.raises(
        TypeError, match=r"deployments\.servers\.styles has no function that handles tokenize of styles"
    ):
        server_class(task, Backend.FAKE)


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
    options = resources_of_workers(Needs(cpus=1, gpus=2, memory_gib=4), {}, labels)
    assert options["placement_group_bundle_label_selector"] == [labels]
    assert "label_selector" not in options["ray_actor_options"]
    assert "label_selector" not in resources(Needs(cpus=1, memory_gib=4), {})["ray_actor_options"]
    assert "placement_group_bundle_label_selector" not in resources_of_workers(Needs(cpus=1, memory_gib=4), {})
