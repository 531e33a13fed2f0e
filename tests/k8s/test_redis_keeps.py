"""Redis holds the state of a cluster whose head may die: it must neither forget nor lose a write it has answered."""

from pathlib import Path

import yaml

REDIS = Path(__file__).resolve().parents[2] / "k8s" / "components" / "redis" / "redis.yaml"


def test_redis_evicts_nothing_and_writes_before_it_answers():
    (stateful,) = (one for one in yaml.safe_load_all(REDIS.read_text()) if one["kind"] == "StatefulSet")
    spec = stateful["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    args = container["args"]
    options = {name: args[place + 1] for place, name in enumerate(args) if name.startswith("--")}
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--appendonly"], options["--appendfsync"]) == ("yes", "always")
    assert options["--requirepass"] == "$(REDIS_PASSWORD)"
    claims = [claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[options["--dir"]] in claims  # and not in the pod, which goes
