"""Arguments of the two builders, as they stand under `args:` in serve_config.yaml."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.catalog import load_catalog
from models.safety.policy import OutputPolicy
from models.slo import Profile, load_slo
from models.specs import ModelSpec, VariantSpec

# In the place of a variant's name: the cheapest one that keeps its promises on this hardware.
AUTO = "auto"
# Beside the packages in a checkout and in the images.
SLO = Path(__file__).parents[1] / "slo.yaml"


class ModelArgs(BaseModel):
    """Arguments of `deployments.model:build`.

    Attributes:
        model: an id of the catalog, or `model@variant` for one more variant beside that. It is the application's name.
        variant: None is the one that `model` names, else the model's default one; "auto" has it chosen by measurements.
        label_selector: labels that a replica's node must have, such as ray.io/accelerator-type: L4. Unlike Serve's
            `accelerator_type` it also makes an autoscaler start such a node.
        release: means nothing to Medley: a new value makes Serve replace the replicas, the old value takes that back.
        metrics: report to Prometheus.
        access_log: write a line for each call: id, method, outcome, milliseconds; nothing of its content.
        safety: what pictures may leave; for image models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """The variant's own name; for "auto" the one that is chosen on this machine."""
        if self.variant == AUTO:
            from models.choice import chosen_variant

            return chosen_variant(self.spec)
        return self.variant or self.spec.default_variant

    def settled(self) -> Self:
        """The same with the variant's own name, so that every process that is handed them runs that variant."""
        return self.model_copy(update={"variant": self.variant_name})


class RouterArgs(BaseModel):
    """Arguments of `deployments.router.ingress:build`.

    Attributes:
        body_limit_mib: larger request bodies are refused with 413, and larger messages on a WebSocket with 1009.
        websocket_limit_mib: of all messages that a client sends on one WebSocket.
        websocket_idle_s: a WebSocket on which nobody sends anything for so long is closed.
        deadline_s: a request that takes longer is answered with 504 and cancelled.
        discovery_interval_s: how often the router asks Serve what is running.
        keep_alive_s: a stream that has nothing to send yet sends a comment this often.
        media_folder: where pictures are kept that are answered as links; MEDLEY_HOME/media if left out. Routers on
            several machines need one that they share.
        media_links: answer `response_format: url` with links; otherwise it is refused.
        media_ttl_s: how long a link works.
        media_limit_mib: of the folder; the oldest pictures go first.
        label_selector: labels that a router's node must have: one without GPUs, or it keeps them from being given back.
        promises: the profile of slo.yaml that requests are held against when they come: one that would surely break its
            promise is refused. None lets everybody in.
        slo: the file; the one beside the package if left out.
        most_waiting: requests that may wait for models which are not up yet; more get 503 at once.
        metrics: report to Prometheus.
        access_log: write a line for each request: id, path, status, milliseconds; nothing of its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_limit_mib: float = Field(default=8, gt=0, le=256)
    websocket_limit_mib: float = Field(default=64, gt=0)
    websocket_idle_s: float = Field(default=60, gt=0)
    deadline_s: float = Field(default=600, gt=0)
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
        """What is promised. Raises ValueError, KeyError: the file or the profile is not there."""
        return load_slo(self.slo or SLO).profile(self.promises or "")
