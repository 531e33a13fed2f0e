"""Mistakes put into copies of the shipped YAML files, and what a person sees of each. docs/mistakes.md lists them."""

# ruff: noqa: E501  (a message is one line)

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from models.catalog import load_catalog
from models.registry import backends_of
from models.specs import Backend
from models.tasks import BY_NAME, embeddings

REPOSITORY = Path(__file__).resolve().parents[2]
SERVE, CATALOG, SLO = "serve_config.yaml", "models/catalog/embeddings.yaml", "slo.yaml"


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        old, new: a regular expression and what takes its place, once.
        at: text of the line that the message must name; its occurrence `nth`, from the end where that is negative.
        where, message: the rest of what a person sees, after the file and the line.
    """

    name: str
    file: str
    old: str
    new: str
    at: str
    where: str
    message: str
    nth: int = 1

    def made_in(self, folder: Path) -> Path:
        """A copy of the file with the mistake."""
        text, count = re.subn(self.old, self.new, shipped(self.file), count=1, flags=re.DOTALL)
        assert count == 1, f"{self.file} has no {self.old!r} any more"
        copy = folder / Path(self.file).name
        copy.write_text(text)
        return copy

    def seen(self, copy: Path) -> str:
        """The line that a person sees."""
        lines = [number for number, line in enumerate(copy.read_text().splitlines(), 1) if self.at in line]
        return ": ".join(
            part for part in (f"{copy}:{lines[self.nth - (self.nth > 0)]}", self.where, self.message) if part
        )


def shipped(file: str) -> str:
    return (REPOSITORY / file).read_text()


# Of the catalog, which grows.
VARIANTS = ", ".join(load_catalog()["all-minilm-l6-v2"].variants)
BACKENDS = ", ".join(backends_of(embeddings.TASK))
KNOWN = f"{' or '.join(BY_NAME)},"
STRANGER = next(backend for backend in Backend if backend not in backends_of(embeddings.TASK))

# Three lines for each: what it is, what is changed, what is said.
# fmt: off
MISTAKES = [
    Mistake("unknown key at the top", SERVE,
            "proxy_location: HeadOnly", "proxy_locaton: HeadOnly", "proxy_locaton",
            "proxy_locaton", "there is no such setting. Did you mean proxy_location?"),
    Mistake("unknown key in http_options", SERVE,
            "  port: 8000", "  prot: 8000", "prot:",
            "http_options.prot", "there is no such setting. Did you mean port?"),
    Mistake("unknown key of a deployment", SERVE,
            "max_surge_percent", "max_surge_percnt", "max_surge_percnt",
            "application all-minilm-l6-v2, deployments[model].max_surge_percnt", "there is no such setting. Did you mean max_surge_percent?"),
    Mistake("unknown key of autoscaling", SERVE,
            "downscale_delay_s", "downscale_dely_s", "downscale_dely_s",
            "application all-minilm-l6-v2, deployments[model].autoscaling_config.downscale_dely_s", "there is no such setting. Did you mean downscale_delay_s or downscale_to_zero_delay_s?"),
    Mistake("unknown key of the policy", SERVE,
            "policy_kwargs", "policy_kwarg", "policy_kwarg:",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy.policy_kwarg", "there is no such setting. Did you mean policy_kwargs?"),
    Mistake("unknown argument of the policy", SERVE,
            "{target_ongoing_requests: 32}", "{target_ongoing_request: 32}", "target_ongoing_request:",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy.policy_kwargs.target_ongoing_request", "ConcurrencyPolicy has no such argument. Did you mean target_ongoing_requests?"),
    Mistake("unknown key of logging", SERVE,
            "  encoding: JSON", "  encodng: JSON", "encodng",
            "logging_config.encodng", "there is no such setting. Did you mean encoding?"),
    Mistake("unknown key of backpressure", SERVE,
            "retry_after_s: 1}", "retry_after: 1}", "retry_after:",
            "application smollm2-135m-instruct, deployments[model].backpressure_config.retry_after", "there is no such setting. Did you mean retry_after_s?"),
    Mistake("a key one level too low", SERVE,
            r"        max_surge_percent: 100\n(.*?)(          min_replicas)", r"\1          max_surge_percent: 100\n\2", "max_surge_percent",
            "application all-minilm-l6-v2, deployments[model].autoscaling_config.max_surge_percent", "there is no such setting. It belongs one level up."),
    Mistake("a key one level too high", SERVE,
            "        max_surge_percent: 100", "        min_replicas: 1", "        min_replicas: 1",
            "application all-minilm-l6-v2, deployments[model].min_replicas", "there is no such setting. It belongs under autoscaling_config.", nth=2),
    Mistake("a key that belongs to http_options", SERVE,
            r"    route_prefix: null\n", "    route_prefix: null\n    port: 8000\n", "    port: 8000",
            "application smollm2-135m-instruct, port", "belongs under http_options, once for all. Write http_options.port."),
    Mistake("text for a number", SERVE,
            "max_ongoing_requests: 256", "max_ongoing_requests: many", ": many",
            "application smollm2-135m-instruct, deployments[model].max_ongoing_requests", "must be a whole number, but is 'many'."),
    Mistake("a number out of range", SERVE,
            "max_surge_percent: 100", "max_surge_percent: 200", ": 200",
            "application all-minilm-l6-v2, deployments[model].max_surge_percent", "must be at most 100, but is 200."),
    Mistake("a word that is not allowed there", SERVE,
            "HeadOnly", "HeadOnyl", "HeadOnyl",
            "proxy_location", "must be Disabled or HeadOnly or EveryNode, but is 'HeadOnyl'. Did you mean HeadOnly?"),
    Mistake("an encoding that does not exist", SERVE,
            "encoding: JSON", "encoding: XML", "encoding: XML",
            "logging_config.encoding", "must be JSON or TEXT, but is 'XML'."),
    Mistake("a status code that Serve does not support", SERVE,
            "status_code: 429", "status_code: 500", "status_code: 500",
            "application smollm2-135m-instruct, deployments[model].backpressure_config.status_code", "must be 503 or 429, but is 500."),
    Mistake("num_replicas beside autoscaling", SERVE,
            "        max_surge_percent: 100", "        num_replicas: 2", "num_replicas: 2",
            "application all-minilm-l6-v2, deployments[model].num_replicas", "is a fixed number, and autoscaling_config changes the number. Remove one of the two."),
    Mistake("a policy in a module that is not there", SERVE,
            "deployments.autoscaling:", "deployments.autoscalling:", "autoscalling",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy.policy_function", "deployments.autoscalling:ConcurrencyPolicy cannot be imported: No module named 'deployments.autoscalling'. Write module:name of a package that is installed."),
    Mistake("a policy that is not in its module", SERVE,
            ":ConcurrencyPolicy", ":ConcurencyPolicy", "ConcurencyPolicy",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy.policy_function", "deployments.autoscaling:ConcurencyPolicy cannot be imported: deployments.autoscaling has no ConcurencyPolicy. Did you mean ConcurrencyPolicy?"),
    Mistake("a policy that refuses its arguments", SERVE,
            "{target_ongoing_requests: 32}", "{target_ongoing_requests: 0}", "requests: 0",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy.policy_kwargs", "ConcurrencyPolicy cannot be created: target_ongoing_requests must be above 0. Correct policy_kwargs."),
    Mistake("a policy without an argument that it needs", SERVE,
            r"\{target_ongoing_requests: 32\}", "{}", "          policy:",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy", "ConcurrencyPolicy needs target_ongoing_requests. Add it under policy_kwargs."),
    Mistake("a policy that lets requests wait longer than promised", SERVE,
            "{wait_s: 0.25,", "{wait_s: 2,", "wait_s: 2",
            "application all-minilm-l6-v2, deployments[model].autoscaling_config.policy.policy_kwargs.wait_s", "2 s is not below the 1 s that slo.yaml promises: replicas come too late. Write at most 0.5."),
    Mistake("a deployment's setting in its application", SERVE,
            r"    route_prefix: null\n", "    route_prefix: null\n    max_ongoing_requests: 64\n", "max_ongoing_requests",
            "application smollm2-135m-instruct, max_ongoing_requests", "there is no such setting. It belongs under deployments."),
    Mistake("a builder that does not exist", SERVE,
            "deployments.model:build", "deployments.models:build", "deployments.models",
            "application smollm2-135m-instruct, import_path", "deployments.models:build is not a builder of Medley's. Did you mean deployments.model:build or deployments.router.ingress:build?"),
    Mistake("a model that does not exist", SERVE,
            "args: {model: all-minilm-l6-v2,", "args: {model: all-minilm-l6,", "args: {model: all-minilm-l6,",
            "application all-minilm-l6-v2, args.model", "the model 'all-minilm-l6' does not exist. Did you mean all-minilm-l6-v2?"),
    Mistake("a variant that does not exist", SERVE,
            "variant: onnx", "variant: onyx", "onyx",
            "application all-minilm-l6-v2, args.variant", f"all-minilm-l6-v2 has no variant 'onyx'; it has {VARIANTS}. Did you mean onnx?"),
    Mistake("a variant that does not exist, in a name", SERVE,
            "model: all-minilm-l6-v2, variant: onnx", "model: all-minilm-l6-v2@onyx", "@onyx",
            "application all-minilm-l6-v2, args.model", f"all-minilm-l6-v2 has no variant 'onyx'; it has {VARIANTS}. Did you mean all-minilm-l6-v2@onnx?"),
    Mistake("a model that does not exist, in a name with a variant", SERVE,
            "model: all-minilm-l6-v2, variant: onnx", "model: all-minilm-l6@onnx", "l6@onnx",
            "application all-minilm-l6-v2, args.model", "the model 'all-minilm-l6@onnx' does not exist. Did you mean all-minilm-l6-v2@onnx?"),
    Mistake("`auto` in a name", SERVE,
            "model: all-minilm-l6-v2, variant: onnx", "model: all-minilm-l6-v2@auto", "@auto",
            "application all-minilm-l6-v2, args.model", "all-minilm-l6-v2@auto would be another variant on another machine. Write `model: all-minilm-l6-v2` and `variant: auto`, and name the application so."),
    Mistake("an application not named after its variant", SERVE,
            "model: all-minilm-l6-v2, variant: onnx", "model: all-minilm-l6-v2@torch", "- name: all-minilm-l6-v2",
            "application all-minilm-l6-v2, name", "the application all-minilm-l6-v2 serves all-minilm-l6-v2@torch. Name it all-minilm-l6-v2@torch, so that the router finds it."),
    Mistake("two variants for one application", SERVE,
            r"name: all-minilm-l6-v2\n(.*?)model: all-minilm-l6-v2, variant: onnx", r"name: all-minilm-l6-v2@onnx\n\1model: all-minilm-l6-v2@onnx, variant: torch", "@onnx, variant: torch",
            "application all-minilm-l6-v2@onnx, args.variant", "all-minilm-l6-v2@onnx is the variant onnx, not 'torch'. Remove this."),
    Mistake("an argument that does not exist", SERVE,
            "variant: onnx", "varient: onnx", "varient",
            "application all-minilm-l6-v2, args.varient", "there is no such setting. Did you mean variant?"),
    Mistake("a release that is a number", SERVE,
            'variant: onnx, release: "1"', "variant: onnx, release: 1", "release: 1}",
            "application all-minilm-l6-v2, args.release", "must be text, but is 1. Put it in quotes."),
    Mistake("an application not named after its model", SERVE,
            "- name: all-minilm-l6-v2", "- name: minilm", "- name: minilm",
            "application minilm, name", "the application minilm serves all-minilm-l6-v2. Name it all-minilm-l6-v2, so that the router finds it."),
    Mistake("two applications with one name", SERVE,
            r"name: all-minilm-l6-v2\n(.*?)model: all-minilm-l6-v2, variant: onnx", r"name: smollm2-135m-instruct\n\1model: smollm2-135m-instruct, variant: vllm-cpu", "- name: smollm2-135m-instruct",
            "application smollm2-135m-instruct, name", "line 34 already names an application smollm2-135m-instruct. Keep one.", nth=2),
    Mistake("no router", SERVE,
            r"\n  - name: router\n.*", "\n", "applications:",
            "applications", "there is no router (deployments.router.ingress:build), so nothing answers clients. Copy the one from serve_config.yaml."),
    Mistake("two routers", SERVE,
            r"\Z", "\n  - name: second\n    route_prefix: null\n    import_path: deployments.router.ingress:build\n", "- name: second",
            "application second", "this is a second router, and there is one endpoint. Remove one."),
    Mistake("a model with a route", SERVE,
            "route_prefix: null", "route_prefix: /chat", "/chat",
            "application smollm2-135m-instruct, route_prefix", "must be null: clients reach a model through the router. Write `route_prefix: null`."),
    Mistake("a model without route_prefix", SERVE,
            r"    route_prefix: null\n", "", "- name: smollm2-135m-instruct",
            "application smollm2-135m-instruct", "route_prefix is missing, and Serve's default is /, the router's. Add `route_prefix: null`."),
    Mistake("a router without a route", SERVE,
            r"route_prefix: /\n", "route_prefix: null\n", "route_prefix: null",
            "application router, route_prefix", "must be /, but is null.", nth=-1),
    Mistake("a deployment with another name", SERVE,
            "- name: model", "- name: modle", "modle",
            "application smollm2-135m-instruct, deployments[modle].name", "a model has no deployment 'modle'; its only one is model. Name it model."),
    Mistake("no deployments", SERVE,
            r"    deployments:\n      - name: model.*?\n\n", "\n", "- name: smollm2-135m-instruct",
            "application smollm2-135m-instruct", "deployments is missing, so Serve's defaults apply: 5 requests at a time and an unlimited queue. Add one named model, as serve_config.yaml has."),
    Mistake("resources in the serve config", SERVE,
            "        max_surge_percent: 100", "        ray_actor_options: {num_cpus: 1}", "ray_actor_options",
            "application all-minilm-l6-v2, deployments[model].ray_actor_options", "must not be here: it would replace everything that Medley computes from the catalog, including the environment. Remove it; a replica's needs are under `needs` in models/catalog."),
    Mistake("bundles in the serve config", SERVE,
            "        max_surge_percent: 100", "        placement_group_bundles: [{CPU: 1}]", "placement_group_bundles",
            "application all-minilm-l6-v2, deployments[model].placement_group_bundles", "must not be here: it would replace everything that Medley computes from the catalog, including the environment. Remove it; a replica's needs are under `needs` in models/catalog."),
    Mistake("no max_ongoing_requests", SERVE,
            r"        max_ongoing_requests: 256\n", "", "- name: model",
            "application smollm2-135m-instruct, deployments[model]", "max_ongoing_requests is missing, and Serve's default of 5 keeps the engine from filling its batches. Add it; serve_config.yaml has 256."),
    Mistake("no max_queued_requests", SERVE,
            r"        max_queued_requests: 64\n", "", "- name: model",
            "application smollm2-135m-instruct, deployments[model]", "max_queued_requests is missing, and Serve's default is an unlimited queue: nothing is ever refused. Add it; serve_config.yaml has 64."),
    Mistake("an unlimited queue", SERVE,
            "max_queued_requests: 64", "max_queued_requests: -1", ": -1",
            "application smollm2-135m-instruct, deployments[model].max_queued_requests", "-1 is an unlimited queue: nothing is ever refused. Write how many requests may wait, such as 64."),
    Mistake("min_replicas above max_replicas", SERVE,
            "min_replicas: 1", "min_replicas: 3", ": 3",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.min_replicas", "3 is above max_replicas (1). Lower this one or raise that one."),
    Mistake("less time to drain than a request may take", SERVE,
            r"graceful_shutdown_timeout_s: \d+", "graceful_shutdown_timeout_s: 30", ": 30",
            "application smollm2-135m-instruct, deployments[model].graceful_shutdown_timeout_s", "30 is below the router's deadline_s (600): a replica that is replaced would cut its requests. Write at least 600."),
    Mistake("a target above what a replica takes", SERVE,
            "{target_ongoing_requests: 32}", "{target_ongoing_requests: 1000}", ": 1000}",
            "application smollm2-135m-instruct, deployments[model].autoscaling_config.policy.policy_kwargs.target_ongoing_requests", "1000 is above max_ongoing_requests (256): replicas are full before more start. Write at most 256."),
    Mistake("a port out of range", SERVE,
            "port: 8000", "port: 80000", "80000",
            "http_options.port", "80000 is not a port number. Write one from 1 to 65535, such as 8000."),
    Mistake("a port that is true in YAML", SERVE,
            "  port: 8000", "  port: yes", "port: yes",
            "http_options.port", "must be a whole number, but is true. YAML reads yes, no, on and off as true and false."),
    Mistake("a number in quotes", SERVE,
            "  port: 8000", '  port: "80000"', "port:",
            "http_options.port", "must be a whole number, but is '80000'. Write 80000 without quotes."),
    Mistake("no replicas, written as off", SERVE,
            "min_replicas: 0", "min_replicas: off", "min_replicas: off",
            "application doodle-turbo, deployments[model].autoscaling_config.min_replicas", "must be a whole number, but is false. YAML reads yes, no, on and off as true and false."),
    Mistake("a number that is none", SERVE,
            "request_timeout_s: 900", "request_timeout_s: .nan", ".nan",
            "http_options.request_timeout_s", "must be a finite number, but is .nan. Write a number."),
    Mistake("a switch in quotes", SERVE,
            "promises: cpu,", 'promises: cpu, metrics: "no",', "metrics:",
            "application router, args.metrics", "must be true or false, but is 'no'. Write false without quotes."),
    Mistake("a host with http://", SERVE,
            "host: 127.0.0.1", "host: http://127.0.0.1", "host:",
            "http_options.host", "'http://127.0.0.1' is neither an IP address nor the name of a host. Write one of the two alone, without http://, port or path, such as 127.0.0.1."),
    Mistake("Serve gives up before the router", SERVE,
            "request_timeout_s: 900", "request_timeout_s: 300", ": 300",
            "http_options.request_timeout_s", "300 is not above the router's deadline_s (600): a late request would get Serve's error, which is not in OpenAI's form. Write more than 600."),
    Mistake("a router's argument below its range", SERVE,
            "args: {promises: cpu,", "args: {promises: cpu, deadline_s: 0,", "deadline_s: 0",
            "application router, args.deadline_s", "must be above 0, but is 0."),
    Mistake("a profile of promises that does not exist", SERVE,
            "promises: cpu", "promises: moon", "promises: moon",
            "application router, args", "promises: there is no profile 'moon'; there are cpu, cpu-ci, gpu."),
    Mistake("an unknown variable of Serve", SERVE,
            "RAY_SERVE_LOG_TO_STDERR", "RAY_SERVE_LOG_TO_STDER", "RAY_SERVE_LOG_TO_STDER:",
            "controller_options.runtime_env.env_vars.RAY_SERVE_LOG_TO_STDER", "Ray Serve reads no such variable. Did you mean RAY_SERVE_LOG_TO_STDERR?"),
    Mistake("a variable that is not text", SERVE,
            'RAY_SERVE_LOG_TO_STDERR: "0"', "RAY_SERVE_LOG_TO_STDERR: 0", "RAY_SERVE_LOG_TO_STDERR",
            "controller_options.runtime_env.env_vars.RAY_SERVE_LOG_TO_STDERR", 'must be text, but is 0. Write "0" in quotes.'),
    Mistake("an environment with more than variables", SERVE,
            r"    env_vars:\n", "    pip: [numpy]\n    env_vars:\n", "pip:",
            "controller_options.runtime_env.pip", "there is no such setting. Choose from: env_vars."),
    Mistake("a key that appears twice", SERVE,
            "  port: 8000", "  port: 8000\n  port: 8001", "8001",
            "http_options.port", "this key already stands in line 8. Keep one of the two."),
    Mistake("not YAML", SERVE,
            "proxy_location: HeadOnly", "proxy_location: [HeadOnly", "http_options:",
            "", "this is not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'."),
    Mistake("no applications", SERVE,
            r"\napplications:.*", "\n", "proxy_location",
            "applications", "this file names no applications; serve_config.yaml shows an example."),
    Mistake("endless aliases", SERVE,
            "proxy_location: HeadOnly", "a: &a [0,0,0,0,0,0,0,0,0,0]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]", "a: &a",
            "", "the aliases stand for more than 100000 values. Write fewer."),
    Mistake("unknown key of a model", CATALOG,
            "    owner: BAAI", "    ownr: BAAI", "ownr",
            "model bge-m3, ownr", "there is no such setting. Did you mean owner?"),
    Mistake("unknown key of a variant's needs", CATALOG,
            "gpus: 0.25", "gpu: 0.25", "gpu: 0.25",
            "model bge-m3, variants.torch-gpu.needs.gpu", "there is no such setting. Did you mean gpus?"),
    Mistake("a precision that does not exist", CATALOG,
            "precision: fp32", "precision: fp23", "fp23",
            "model all-minilm-l6-v2, variants.onnx.precision", "must be fp32 or bf16 or fp16 or fp8 or int8 or int4, but is 'fp23'. Did you mean fp32?"),
    Mistake("a default variant that does not exist", CATALOG,
            "default_variant: onnx", "default_variant: onyx", "default_variant",
            "model all-minilm-l6-v2, default_variant", "there is no variant onyx. Did you mean onnx?"),
    Mistake("a backend that does not exist", CATALOG,
            "backend: onnx", "backend: onxx", "onxx",
            "model all-minilm-l6-v2, variants.onnx.backend", "must be vllm or transformers or onnx or torch or diffusers or fake, but is 'onxx'. Did you mean onnx?"),
    Mistake("a backend without an engine for the task", CATALOG,
            "backend: onnx", f"backend: {STRANGER}", f"backend: {STRANGER}",
            "model all-minilm-l6-v2, variants.onnx.backend", f"embeddings has no engine for {STRANGER}. Choose from: {BACKENDS}."),
    Mistake("one GPU and a half", CATALOG,
            "gpus: 0.25", "gpus: 1.5", "gpus: 1.5",
            "model bge-m3, variants.torch-gpu.needs", "gpus above 1 must be a whole number."),
    Mistake("a limit in quotes", CATALOG,
            "context_tokens: 256", 'context_tokens: "256"', 'context_tokens: "256"',
            "model all-minilm-l6-v2, limits.context_tokens", "must be a whole number, but is '256'. Write 256 without quotes."),
    Mistake("memory without end", CATALOG,
            r"memory_gib: [\d.]+", "memory_gib: .inf", "memory_gib: .inf",
            "model all-minilm-l6-v2, variants.onnx.needs.memory_gib", "must be a finite number, but is .inf. Write a number."),
    Mistake("a malformed checksum", CATALOG,
            r"sha256: \w+", "sha256: abc", "abc",
            "model all-minilm-l6-v2, source.sha256", "must match ^[0-9a-f]{64}$, but is 'abc'."),
    Mistake("a source of an unknown kind", CATALOG,
            "kind: hub", "kind: hbu", "hbu",
            "model bge-m3, source", "must be wheel or hub or folder or packaged or none, but is 'hbu'. Did you mean hub?"),
    Mistake("a hub source without revision", CATALOG,
            r", revision: \w+", "", "kind: hub",
            "model bge-m3, source.revision", "is missing. Add it."),
    Mistake("an id that appears twice", CATALOG,
            "id: bge-m3", "id: all-minilm-l6-v2", "id: all-minilm-l6-v2",
            "model all-minilm-l6-v2, id", "line 3 already has a model all-minilm-l6-v2. Keep one.", nth=2),
    Mistake("a model in the file of another task", CATALOG,
            "task: embeddings", "task: chat", "task: chat",
            "model all-minilm-l6-v2, task", "a model of task chat belongs in chat.yaml, not in embeddings.yaml. Move it."),
    Mistake("a model of an unknown task", CATALOG,
            "task: embeddings", "task: embedings", "task: embedings",
            "model all-minilm-l6-v2, task", f"must be {KNOWN} but is 'embedings'. Did you mean embeddings?"),
    Mistake("no dimensions", CATALOG,
            r"    settings: {dimensions: {native: 1024, smallest: 64}}\n", "", "- id: bge-m3",
            "model bge-m3, settings.dimensions", "is missing. Add it."),
    Mistake("a promise that does not exist", SLO,
            "good: 0.99", "god: 0.99", "god:",
            "profiles.cpu.tasks.chat.god", "there is no such setting. Did you mean good?"),
    Mistake("a promise of more than 100 %", SLO,
            "good: 0.99", "good: 1.2", "1.2",
            "profiles.cpu.tasks.chat.good", "must be below 1, but is 1.2."),
    Mistake("a promise in quotes", SLO,
            "good: 0.99", 'good: "0.99"', 'good: "0.99"',
            "profiles.cpu.tasks.chat.good", "must be a number, but is '0.99'. Write 0.99 without quotes."),
    Mistake("a promise for an unknown model", SLO,
            "falcon-7b-instruct", "falcon-7b-instrct", "instrct",
            "profiles.gpu.models.falcon-7b-instrct", "the catalog has no model falcon-7b-instrct. Did you mean falcon-7b-instruct or qwen2.5-7b-instruct?"),
    Mistake("an unknown promise for a model", SLO,
            "{good: 0.95}", "{god: 0.95}", "god:",
            "profiles.gpu.models.falcon-7b-instruct.god", "there is no such setting. Did you mean good?"),
]
# fmt: on
