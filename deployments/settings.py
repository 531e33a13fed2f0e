"""The arguments of the two builders: `args:` in serve_config.yaml."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.catalog import load_catalog
from models.safety.policy import OutputPolicy
from models.slo import Profile, load_slo
from models.specs import ModelSpec, VariantSpec

# Written instead of a variant's name: the cheapest variant that keeps its promises on this hardware.
AUTO = "auto"
# Beside the packages, both in a checkout and in the images.
SLO = Path(__file__).parents[1] / "slo.yaml"


HostName = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")]


class ModelArgs(BaseModel):
    """Arguments of `deployments.model:build`.

    Attributes:
        model: an id of the catalog, or `model@variant` to serve another variant beside it. Also the application's name.
        variant: None stands for the one that `model` names, else the default; "auto" chooses by measurements.
        label_selector: labels that a replica's node must have, such as ray.io/accelerator-type: L4. Unlike Serve's
            `accelerator_type`, it also makes an autoscaler start such a node.
        release: any text. A new value makes Serve replace the replicas; the old value undoes that.
        metrics: report to Prometheus.
        access_log: write a line for each call: id, method, outcome, milliseconds; never its content.
        safety: which pictures may leave; for image models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    variant: str | None = None
    label_selector: dict[str, str] = {}
    release: str = "1"
    metrics: bool = True
    access_log: bool = True
    safety: OutputPolicy = OutputPolicy()

    @model_validator(mode="after")
    def _exists(self) -> Self:
        spec, named = self.spec, self.model.partition("@")[2]
        if named and self.variant not in (None, named):
            raise ValueError(f"{self.model} names its variant, and `variant` is {self.variant!r}. Leave `variant` out.")
        if self.variant != AUTO:
            try:
                spec.variant(self.variant)
            except KeyError as error:
                raise ValueError(str(error.args[0])) from None
        return self

    @property
    def spec(self) -> ModelSpec:
        return load_catalog().resolve(self.model)

    @property
    def variant_spec(self) -> VariantSpec:
        return self.spec.variant(self.variant_name)

    @property
    def variant_name(self) -> str:
        """The variant's name; for "auto" the one that is chosen on this machine."""
        if self.variant == AUTO:
            from models.choice import chosen_variant

            return chosen_variant(self.spec)
        return self.variant or self.spec.default_variant

    def settled(self) -> Self:
        """A copy with the variant's name filled in, so that every process that receives it runs that variant."""
        return self.model_copy(update={"variant": self.variant_name})


class RouterArgs(BaseModel):
    """Arguments of `deployments.router.ingress:build`.

    Attributes:
        body_limit_mib: larger request bodies are refused with 413, and larger messages on a WebSocket with 1009.
        websocket_limit_mib: the limit for all messages that a client sends on one WebSocket.
        websocket_idle_s: seconds without a message in either direction after which a WebSocket is closed.
        deadline_s: a request that takes longer is answered with 504 and cancelled.
        body_timeout_s: how long a client may take to send its body, and one more second for each 16 KiB that have come;
            then it is answered with 408.
        read_timeout_s: a client that reads nothing of its answer for so long is cut off.
        allowed_hosts: names that requests may be for, besides addresses in numbers; `*.example.com` stands for all
            below example.com. None: where Ray listens on loopback only, as `medley up` starts it, localhost and the
            names below it, for a web page could otherwise call the cluster under a name of its own; elsewhere every
            name.
        discovery_interval_s: how often the router asks Serve what is running.
        keep_alive_s: a stream that has nothing to send yet sends a comment at this interval.
        media_folder: the folder for files that are answered as links; MEDLEY_HOME/media by default. Routers on several
            machines must share one.
        media_links: answer `response_format: url` with links. If off, such requests are refused.
        media_ttl_s: how long a link works.
        media_limit_mib: the size of the folder. The oldest files are removed first.
        label_selector: labels that a router's node must have. Choose nodes without GPUs: a router would keep them
            alive.
        promises: the profile of slo.yaml for admission. A request that would certainly break its promise is refused on
            arrival. None admits every request.
        slo: the file; by default the one beside the package.
        most_waiting: how many requests may wait for models that are not up yet. Further ones get 503 at once.
        metrics: report to Prometheus.
        access_log: write a line for each request: id, path, status, milliseconds; never its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_limit_mib: float = Field(default=8, gt=0, le=256)
    websocket_limit_mib: float = Field(default=64, gt=0)
    websocket_idle_s: float = Field(default=60, gt=0)
    deadline_s: float = Field(default=600, gt=0)
    body_timeout_s: float = Field(default=20, gt=0)
    read_timeout_s: float = Field(default=60, gt=0)
    allowed_hosts: tuple[HostName, ...] | None = None
    discovery_interval_s: float = Field(default=1.0, gt=0)
    keep_alive_s: float = Field(default=10, gt=0)
    media_folder: Path | None = None
    media_links: bool = True
    media_ttl_s: float = Field(default=3600, ge=1)
    media_limit_mib: float = Field(default=1024, gt=0)
    label_selector: dict[str, str] = {}
    promises: str | None = None
    slo: Path | None = None
    most_waiting: int = Field(default=200, ge=0)
    metrics: bool = True
    access_log: bool = True
    release: str = "1"

    @model_validator(mode="after")
    def _promises_are_made(self) -> Self:
        if self.promises is not None:
            try:
                self.profile()
            except KeyError as error:
                raise ValueError(f"promises: {error.args[0]}") from None
        return self

    def profile(self) -> Profile:
        """The promises. Raises ValueError or KeyError if the file or the profile does not exist."""
        return load_slo(self.slo or SLO).profile(self.promises or "")
