"""Medley in a pod of Kubernetes' strictest standard, but for the container: user 1000, no capability and none to be
had, a read-only root, weights that were fetched before and are read-only; written to are /tmp and /dev/shm.

The pod has the environment of the images, and a network and processes of its own, so no other Ray is touched.
"""

import json
import re
import secrets
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from namespaces import missing

from models import weights
from models.catalog import load_catalog

ROOT = Path(__file__).parents[2]
MODELS = {"all-minilm-l6-v2": "onnx", "smollm2-135m-instruct": "vllm-cpu"}
TIMEOUT_S = 540
pytestmark = [
    pytest.mark.nodes,
    pytest.mark.timeout(TIMEOUT_S + 30),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

# $1 is an empty folder, $2 what comes into it, as "<from> <to>" a line, and the rest is the command.
CONTAINER = """
set -eu
root=$1 places=$2
shift 2
mount --make-rprivate /
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p dev etc home models opt proc root sys tmp usr var
mount -t tmpfs -o mode=1777 tmpfs tmp  # before what comes from below /tmp
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -P "/$name" .; elif [ -d "/$name" ]; then places="$places
/$name /$name"; fi
done
while read -r from to; do
    mkdir -p "$root$to"
    mount --bind "$from" "$root$to"
    mount -o remount,bind,ro "$root$to"
done <<END
$places
END
mount --bind /dev dev
mount -t tmpfs -o mode=1777,size=2g tmpfs dev/shm
mount --rbind /sys sys
mount -t proc proc proc
mount -o remount,ro "$root"
exec chroot . setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What restricted_pod.py saw."""
    for model, variant in MODELS.items():
        spec = load_catalog()[model]
        weights.fetch(spec, spec.variant(variant), print)
    config = tmp_path_factory.mktemp("config") / "serve_config.yaml"
    config.write_text(yaml.safe_dump(serve_config()))
    config.parent.chmod(0o755)  # pytest's folders are of their owner only
    python = [Path(sys.base_prefix), Path(sys.prefix)]
    places = {
        "/usr": "/usr",
        "/etc": "/etc",
        weights.home(): "/models",
        ROOT: ROOT,
        Path(sys.executable).parent: "/opt/medley/bin",  # where the images have Medley's programs
        config.parent: "/config",
        **{place: place for place in python if Path("/usr") not in place.parents},
    }
    done = subprocess.run(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
            *("bash", "-c", CONTAINER, "container", str(tmp_path_factory.mktemp("root"))),
            "\n".join(f"{source} {target}" for source, target in places.items()),
            *(sys.executable, str(Path(__file__).with_name("restricted_pod.py")), "/config/serve_config.yaml"),
        ],
        env={
            **image_environment(),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def image_environment() -> dict[str, str]:
    """What docker/Dockerfile sets for every container."""
    text = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    stage = text.split(" AS runtime\n")[1].split("\nFROM ")[0]
    (instruction,) = re.findall(r"^ENV (.*)$", stage, re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(instruction))


def serve_config() -> dict:
    """Of the starter cluster, the models that are always awake and small, one of them on vLLM, and the router."""
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    applications = [app for app in document["applications"] if app["name"] in (*MODELS, "router")]
    # Links to pictures need a folder that all routers share.
    applications[-1]["args"]["media_links"] = False
    return {**document, "applications": applications}


def test_the_pod_is_as_restricted_as_it_is_meant_to_be(seen):
    process = seen["process"]
    assert process["Uid"].split() == process["Gid"].split() == ["1000"] * 4
    assert {name: int(process[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {
        "CapEff": 0, "CapPrm": 0, "CapInh": 0, "CapBnd": 0, "CapAmb": 0
    }  # fmt: skip
    assert process["NoNewPrivs"] == "1"


def test_it_can_write_to_tmp_and_shared_memory_and_nowhere_else(seen):
    writable = {"/tmp", "/dev/shm"}
    assert seen["writes"] == {place: "" if place in writable else "EROFS" for place in seen["writes"]}
    assert {"/etc", "/var", "/opt", "/models"} | writable <= set(seen["writes"])


def test_fetched_weights_are_enough_when_their_volume_is_read_only(seen):
    code, output = seen["fetch"]
    assert code == 0, output
    for model in MODELS:
        assert f"{model}: every file is whole" in output


def test_the_models_answer_through_the_router(seen):
    assert "embeddings" in seen, seen["refused"]
    status, body = seen["embeddings"]
    assert status == 200, body
    assert len(body["data"][0]["embedding"]) == 384
    status, body = seen["chat"]
    assert status == 200, body
    assert "Paris" in body["choices"][0]["message"]["content"]
    print(f"Ray answered after {seen['ray_s']:.1f} s, the models were ready after {seen['ready_s']:.1f} s")


def test_rays_own_interfaces_ask_for_the_token(seen):
    assert seen["open_dashboard"] == 401


def test_nothing_was_tried_that_is_not_allowed(seen):
    assert seen["refused"] == []
