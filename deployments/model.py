"""One model as a Serve application. `import_path: deployments.model:build` in serve_config.yaml.

The builder runs in a short-lived task, so it must be light: neither this module nor the server classes import an engine
or its libraries.
"""

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.servers import batch
from deployments.servers.engine import EngineServer
from deployments.settings import ModelArgs
from models.registry import part
from models.specs import Backend, Needs
from models.tasks.task import Task

# Engines work in their own threads or processes, so a server never blocks the event loop for long. Serve's separate
# thread for user code is not needed, which saves a hop between threads for every request and token.
SINGLE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}

# Seconds in which a stopping replica still takes requests from callers that do not know yet. With HAProxy, Serve's
# default is 30 for every application, but only the router's replicas are behind a load balancer.
BRIEF_DRAIN = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2"}

GIB = 1 << 30


def build(args: ModelArgs) -> Application:
    """The application of one model: a single deployment, always named "model"."""
    args = ModelArgs.model_validate(args).settled()
    variant = args.variant_spec
    server = server_class(args.spec.task, variant.backend)
    deployment = serve.deployment(
        server,
        name="model",
        # A replica that is gone is replaced at the next check, one that fails three checks in a row after the third.
        health_check_period_s=1,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=900,
        **(resources_of_workers if server.places_workers else resources)(
            variant.needs, variant.env, args.label_selector
        ),
    )
    return deployment.bind(args)  # pyright: ignore[reportFunctionMemberAccess]


def server_class(task: Task[Any], backend: Backend) -> type[EngineServer]:
    """`Server` in deployments/servers/<task>_<backend>, else in <task>, else the general one in batch.

    Raises:
        TypeError: it does not handle all methods of the task.
    """
    for name in (f"{task}_{backend}", f"{task}"):
        if (server := part(f"deployments.servers.{name}", "Server")) is not None:
            break
    else:
        server = batch.Server
    server.check(task)
    return server


def resources(needs: Needs, env: dict[str, str], label_selector: dict[str, str] | None = None) -> dict:
    """Deployment options that reserve one replica's resources.

    Args:
        label_selector: labels that the node must have.
    """
    labels = {"label_selector": label_selector} if label_selector else {}
    return {
        "ray_actor_options": {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "memory": int(needs.memory_gib * GIB),
            "runtime_env": {"env_vars": BRIEF_DRAIN | {**SINGLE_LOOP, **env}},
            **labels,
        }
    }


def resources_of_workers(needs: Needs, env: dict[str, str], label_selector: dict[str, str] | None = None) -> dict:
    """The same as a placement group, which ray.serve.llm asks for: the replica is in the first bundle, and each bundle
    holds one vLLM worker."""
    share = needs.gpus_per_worker
    if 0 < share < 1:
        env = {**env, "VLLM_RAY_PER_WORKER_GPUS": str(share)}
    actor = resources(needs.model_copy(update={"gpus": 0}), env)
    gpu = {"GPU": share} if share else {}
    first = {"CPU": needs.cpus, "memory": actor["ray_actor_options"]["memory"], **gpu}
    others = [{"CPU": 1, **gpu} for _ in range(needs.workers - 1)]
    labels = {"placement_group_bundle_label_selector": [label_selector]} if label_selector else {}
    return {**actor, "placement_group_bundles": [first, *others], "placement_group_strategy": "PACK", **labels}
