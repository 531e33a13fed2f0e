"""The overlays: without a mistake, never stale, and each of many mistakes is found."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medley.k8s.command import app, problems_of
from medley.k8s.generated import for_kubernetes, generated
from medley.k8s.overlays import OverlayError, Settings, of_kind, overlay_of, overlays, render
from medley.k8s.pods import pods_of
from medley.k8s.rules import placeholders, serve_config_of
from medley.k8s.scheduling import placements
from medley.k8s.schemas import CRDS, crds, ray_problems

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cpu-dev", "gpu-prod", "gpu-prod-incremental")


@pytest.fixture(scope="module", autouse=True)
def in_the_project():
    here = Path.cwd()
    os.chdir(ROOT)
    yield
    os.chdir(here)


@pytest.fixture(scope="module")
def rendered():
    every = {name: render(overlay_of(name)) for name in NAMES}
    # The first search imports Serve and the deployments, which takes longer than the search: on no test's bill.
    problems_of(every["gpu-prod"])
    return every


@pytest.fixture
def objects(rendered):
    """Of the production overlay, to be changed."""
    return copy.deepcopy(rendered["gpu-prod"])


def the(objects, kind):
    (found,) = of_kind(objects, kind)
    return found


def found_in(objects):
    return [str(finding) for finding in problems_of(objects)]


def test_there_are_three_overlays():
    assert tuple(overlay.name for overlay in overlays()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_overlay_has_no_mistake(rendered, name):
    assert found_in(rendered[name]) == []


@pytest.mark.skipif(crds() is None, reason=f"{CRDS} does not name a folder of KubeRay's CRDs")
@pytest.mark.parametrize("change", [{"typo": 1}, {"excludeHeadPodFromServeSvc": "yes"}, {"rayClusterConfig": None}])
def test_ray_kinds_are_checked_against_the_crds(objects, change):
    the(objects, "RayService")["spec"].update(change)
    if change.get("rayClusterConfig", 1) is None:
        assert list(ray_problems(the(objects, "RayService"), crds()))
    else:
        assert any(next(iter(change)) in finding for finding in found_in(objects))


def test_generated_files_are_not_stale():
    for file, text in generated().items():
        assert file.read_text() == text, f"{file} is stale: run `medley k8s generate`"


def test_a_stale_copy_is_found(monkeypatch):
    texts = generated()
    stale = overlays()[0] / "serve_config.yaml"
    monkeypatch.setattr("medley.k8s.command.generated", lambda: {**texts, stale: texts[stale] + "# changed\n"})
    done = CliRunner().invoke(app, ["check", "cpu-dev"])
    assert done.exit_code == 1
    assert f"{stale}: is stale" in done.output


def test_the_serve_config_is_the_projects_own_but_for_what_pods_need(rendered):
    mine = yaml.safe_load((ROOT / "serve_config.gpu.yaml").read_text())
    theirs = serve_config_of(the(rendered["gpu-prod"], "RayService"))
    assert theirs["proxy_location"] == "EveryNode"
    assert theirs["http_options"] == {**mine["http_options"], "host": "0.0.0.0"}
    assert [one["name"] for one in theirs["applications"]] == [one["name"] for one in mine["applications"]]
    for before, after in zip(mine["applications"], theirs["applications"], strict=True):
        assert after["args"].pop("label_selector")
        after["args"].pop("media_links", None)
        assert after == before


def test_a_label_for_a_model_that_is_not_served_is_refused():
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    settings = Settings(serve_config="serve_config.yaml", label_selectors={"llama": {"a": "b"}})
    with pytest.raises(OverlayError, match=r"has no llama"):
        for_kubernetes(document, settings)


@pytest.mark.parametrize(("name", "left"), [("cpu-dev", 0), ("gpu-prod", 3), ("gpu-prod-incremental", 3)])
def test_what_is_left_to_fill_in_is_refused_in_words(name, left, rendered, monkeypatch):
    """But not of the overlay as it ships: nobody knows the digest of an image that is not built yet."""
    monkeypatch.setattr("medley.k8s.command.render", lambda overlay: rendered[name])
    monkeypatch.setattr("medley.k8s.command.problems_of", lambda objects: ())
    done = CliRunner().invoke(app, ["check", name])
    assert done.exit_code == bool(left)
    assert done.output.count("is a placeholder and no image. Write newName, newTag and digest") == left
    assert CliRunner().invoke(app, ["check", name, "--as-shipped"]).exit_code == 0


def test_an_image_of_ones_own_is_no_placeholder(objects):
    text = yaml.safe_dump_all(objects).replace("registry.example.com", "ghcr.io/mine").replace("0" * 64, "ab" * 32)
    mine = list(yaml.load_all(text, yaml.CSafeLoader))
    assert list(placeholders(mine)) == []
    assert not [finding for finding in problems_of(mine) if finding.where == "image"]


def test_only_the_job_may_reach_the_hub(objects):
    """It alone has the hub's token and may write to the weights."""
    for one in objects:
        for subject, pod in pods_of(one):
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                text = yaml.safe_dump(container)
                assert ("HF_TOKEN" in text) is (subject == "Job medley-preload")
                mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] == "models"]
                assert all(mount.get("readOnly") for mount in mounts) or subject == "Job medley-preload"


def test_render_prints_what_kubectl_would_apply(rendered):
    done = CliRunner().invoke(app, ["render", "cpu-dev"])
    assert list(yaml.safe_load_all(done.output)) == rendered["cpu-dev"]
    assert CliRunner().invoke(app, ["render", "cpu-prod"]).exit_code == 2


def test_each_model_starts_the_group_it_is_meant_for(rendered):
    service = the(rendered["gpu-prod"], "RayService")
    chosen = {one.demand.application: one.groups for one in placements(service, serve_config_of(service))}
    assert chosen["llama-3.1-8b-instruct"] == {"cpu": 2, "gpu-h100": 1}
    assert chosen["sdxl-turbo"] == {"cpu": 2, "gpu-l40s": 1}
    assert chosen["router"] == {"cpu": 2}


def test_ray_services_become_the_pods_of_kuberay(rendered):
    pods = dict(pods_of(the(rendered["gpu-prod"], "RayService")))
    assert list(pods) == [
        f"RayService medley, {one}" for one in ("head", "group cpu", "group gpu-l40s", "group gpu-h100")
    ]
    head = pods["RayService medley, head"]["spec"]
    assert [one["name"] for one in head["containers"]] == ["ray-head", "autoscaler"]
    worker = pods["RayService medley, group cpu"]["spec"]
    assert [one["name"] for one in worker["initContainers"]] == ["models", "wait-gcs-ready"]


def test_a_config_that_cannot_be_read_is_a_finding_and_no_traceback(objects, monkeypatch):
    change_serve_config(objects, lambda document: document["applications"][0]["args"].update(model="llama-9"))
    monkeypatch.setattr("medley.k8s.command.render", lambda overlay: objects)
    done = CliRunner().invoke(app, ["check", "gpu-prod"])
    assert done.exit_code == 1, done.exception
    assert "llama-9" in done.output


def group(objects, number=0):
    return the(objects, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"][number]


def ray_container(objects, number=0):
    return group(objects, number)["template"]["spec"]["containers"][0]


def cluster(objects):
    return the(objects, "RayService")["spec"]["rayClusterConfig"]


def change_serve_config(objects, change):
    service = the(objects, "RayService")
    document = serve_config_of(service)
    change(document)
    service["spec"]["serveConfigV2"] = yaml.safe_dump(document)


def named(objects, kind, name):
    return next(one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)


# What is done to the objects of gpu-prod, and words of what is found.
MISTAKES = {
    "an unknown key of a core kind": (
        lambda o: the(o, "PersistentVolumeClaim")["spec"].update(acessModes=["ReadWriteOnce"]),
        "acessModes",
    ),
    "an unknown key inside a Ray pod": (
        lambda o: ray_container(o).update(redinessProbe={}),
        "redinessProbe",
    ),
    "a quantity that is none": (
        lambda o: ray_container(o)["resources"]["limits"].update(memory="12 GB"),
        "Invalid number format",
    ),
    "a name that is too long": (
        lambda o: the(o, "RayService")["metadata"].update(name="m" * 48),
        "not a DNS label of at most 47",
    ),
    "no token": (lambda o: cluster(o).pop("authOptions"), "is not mode: token"),
    "labels as start parameters": (
        lambda o: group(o, 1)["rayStartParams"].update(labels="a=b"),
        "rayStartParams labels are refused",
    ),
    "start parameters that are no strings": (
        lambda o: group(o)["rayStartParams"].update({"num-cpus": 4}),
        "quote num-cpus=4",
    ),
    "resources twice": (
        lambda o: (group(o).update(resources={"CPU": "4"}), group(o)["rayStartParams"].update({"num-cpus": "4"})),
        "exclude each other",
    ),
    "a restart policy that autoscaler v2 refuses": (
        lambda o: group(o)["template"]["spec"].update(restartPolicy="Always"),
        "restartPolicy must be Never",
    ),
    "Redis' address twice": (
        lambda o: cluster(o)["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].append(
            {"name": "RAY_REDIS_ADDRESS", "value": "x"}
        ),
        "RAY_REDIS_ADDRESS exclude each other",
    ),
    "upgrade options without their strategy": (
        lambda o: the(o, "RayService")["spec"]["upgradeStrategy"].update(clusterUpgradeOptions={"stepSizePercent": 5}),
        "clusterUpgradeOptions belong to",
    ),
    "a root container": (
        lambda o: ray_container(o)["securityContext"].update(runAsUser=0),
        "is root",
    ),
    "a writable root": (
        lambda o: ray_container(o, 2)["securityContext"].pop("readOnlyRootFilesystem"),
        "readOnlyRootFilesystem",
    ),
    "capabilities that are kept": (
        lambda o: ray_container(o)["securityContext"].pop("capabilities"),
        "are not all dropped",
    ),
    "an autoscaler without a security context": (
        lambda o: cluster(o)["autoscalerOptions"].pop("securityContext"),
        "autoscaler",
    ),
    "a folder of the node": (
        lambda o: group(o)["template"]["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "hostPath is not allowed",
    ),
    "an image of tomorrow": (lambda o: ray_container(o).update(image="medley:latest"), "may be another image tomorrow"),
    "a token that nobody needs": (
        lambda o: group(o)["template"]["spec"].pop("automountServiceAccountToken"),
        "Set it to false",
    ),
    "a typing mistake in the serve config": (
        lambda o: change_serve_config(o, lambda d: d["applications"][0]["deployments"][0].update(max_queued_request=5)),
        "max_queued_request: there is no such setting",
    ),
    "a model that is not in the catalog": (
        lambda o: change_serve_config(o, lambda d: d["applications"][0]["args"].update(model="llama-9")),
        "llama-9",
    ),
    "a proxy on the head only": (
        lambda o: change_serve_config(o, lambda d: d.update(proxy_location="HeadOnly")),
        "must be EveryNode",
    ),
    "a proxy that only its own pod reaches": (
        lambda o: change_serve_config(o, lambda d: d["http_options"].update(host="127.0.0.1")),
        "must be 0.0.0.0",
    ),
    "a model that no group can start": (
        lambda o: change_serve_config(
            o, lambda d: d["applications"][0]["args"].update(label_selector={"ray.io/accelerator-type": "B200"})
        ),
        "no group has 4 CPU, 32 GiB, 1 GPU with ray.io/accelerator-type=B200",
    ),
    "replicas that do not fit together": (lambda o: group(o, 2).update(maxReplicas=1), "do not fit together"),
    "a router that may take a GPU node": (
        lambda o: change_serve_config(o, lambda d: d["applications"][-1]["args"].pop("label_selector")),
        "a router may run there and keep its GPU",
    ),
    "less time to end than a request takes": (
        lambda o: group(o)["template"]["spec"].update(terminationGracePeriodSeconds=300),
        "terminationGracePeriodSeconds 300 is not above",
    ),
    "a drain that is shorter than a request": (
        lambda o: ray_container(o)["lifecycle"]["preStop"]["exec"]["command"].__setitem__(-1, "900"),
        "do not fit, and then none is awaited",
    ),
    "no drain": (lambda o: ray_container(o).pop("lifecycle"), "what its replicas have is cut off"),
    "KubeRay's own probe": (lambda o: ray_container(o, 1).pop("readinessProbe"), "needs wget"),
    "replicas on the head": (
        lambda o: cluster(o)["headGroupSpec"]["rayStartParams"].pop("num-cpus"),
        'num-cpus is not "0"',
    ),
    "an object store that shared memory has no room for": (
        lambda o: group(o)["rayStartParams"].update({"object-store-memory": "4000000000"}),
        "does not fit into /dev/shm",
    ),
    "GPU pods that their nodes refuse": (
        lambda o: group(o, 1)["template"]["spec"].pop("tolerations"),
        "does not tolerate nvidia.com/gpu",
    ),
    "another Ray than the image's": (lambda o: cluster(o).update(rayVersion="2.52.0"), "2.52.0 is not the image's"),
    "Redis that its cleanup cannot reach": (
        lambda o: named(o, "NetworkPolicy", "medley-redis")["spec"]["ingress"][0]["from"][0]["podSelector"][
            "matchExpressions"
        ][0].update(values=["head"]),
        "redis-cleanup",
    ),
    "a route to a Service that is not made": (
        lambda o: the(o, "RayService")["spec"].update(
            upgradeStrategy={
                "type": "NewClusterWithIncrementalUpgrade",
                "clusterUpgradeOptions": {"gatewayClassName": "x", "stepSizePercent": 5, "intervalSeconds": 5},
            }
        ),
        "medley-serve-svc does not exist",
    ),
    "a route that gives up before the router": (
        lambda o: the(o, "HTTPRoute")["spec"]["rules"][0]["timeouts"].update(request="60s"),
        "ends requests after 60 s",
    ),
    "a budget in percent": (
        lambda o: the(o, "PodDisruptionBudget")["spec"].update(minAvailable="50%"),
        "only a whole minAvailable",
    ),
    "a claim that is not there": (
        lambda o: o.remove(the(o, "PersistentVolumeClaim")),
        "there is no PersistentVolumeClaim medley-models",
    ),
    "a config map that is not there": (
        lambda o: [
            o.remove(one) for one in of_kind(o, "ConfigMap") if one["metadata"]["name"] == "medley-serve-config"
        ],
        "there is no ConfigMap medley-serve-config",
    ),
}


def init_container(objects, number=0):
    return group(objects, number)["template"]["spec"]["initContainers"][0]


MISTAKES |= {
    "an init container that fetches where nothing lets it out": (
        lambda o: init_container(o).update(args=["medley", "fetch", "/etc/medley/serve_config.yaml"]),
        "group cpu, initContainers models: fetches weights, and no NetworkPolicy lets this pod out to port 443",
    ),
    "a job that is not let out": (
        lambda o: o.remove(named(o, "NetworkPolicy", "medley-preload")),
        "Job medley-preload, containers preload: fetches weights",
    ),
    "an image by its tag": (
        lambda o: ray_container(o).update(image="registry.example.com/medley:0.1.0-cpu"),
        "registry.example.com/medley:0.1.0-cpu is named by its tag, which may be moved",
    ),
    "an image of the public registry by its tag": (
        lambda o: the(o, "StatefulSet")["spec"]["template"]["spec"]["containers"][0].update(image="redis:7"),
        "redis:7 is named by its tag",
    ),
    "half a digest": (
        lambda o: ray_container(o, 1).update(image="registry.example.com/medley@sha256:abc"),
        "has no right digest",
    ),
    **{
        f"{place} without a limit of size": (
            lambda o, volumes=volumes, empty=empty: volumes(o)[0].update(emptyDir=empty),
            "volumes tmp: has no sizeLimit",
        )
        for place, volumes, empty in (
            ("a worker's disk", lambda o: group(o)["template"]["spec"]["volumes"], {}),
            ("a head's disk", lambda o: cluster(o)["headGroupSpec"]["template"]["spec"]["volumes"], None),
            ("a job's memory", lambda o: the(o, "Job")["spec"]["template"]["spec"]["volumes"], {"medium": "Memory"}),
        )
    },
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(objects, mistake, monkeypatch):
    # None of them is of a PrometheusRule, and promtool takes as long as all the rest.
    monkeypatch.setattr("medley.k8s.command.rule_problems", lambda one: ())
    make, words = MISTAKES[mistake]
    make(objects)
    found = []
    for finding in problems_of(objects):
        found.append(str(finding))
        if words in found[-1]:
            return  # it need not go on
    pytest.fail(f"{words!r} is in none of {found}")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_an_expression_that_prometheus_cannot_read_is_found(objects):
    the(objects, "PrometheusRule")["spec"]["groups"][0]["rules"][0].update(expr="sum by model (x)")
    assert any(
        finding.startswith("PrometheusRule medley") and "could not parse expression" in finding
        for finding in found_in(objects)
    )
