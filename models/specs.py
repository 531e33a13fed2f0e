"""The types of a row of the catalog. Settings that only one task's models have are in that task's contract.

All are frozen and reject unknown keys, so a typo in the catalog is an error at load time that names the key.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from models.documents import strictly
from models.sources import Source, Spec
from models.tasks import BY_NAME, task_named
from models.tasks.task import Settings, Task


class Backend(StrEnum):
    """The software that runs a model. Task and backend together name one engine module in `models/engines`."""

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


ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


def as_task(value: Any) -> Task[Any]:
    """The contract of a task, by its name."""
    task = value if isinstance(value, Task) else task_named(value)
    if task is None:
        raise PydanticKnownError("enum", {"expected": " or ".join(f"'{name}'" for name in BY_NAME)})
    return task


AnyTask = Annotated[Task[Any], PlainValidator(as_task), PlainSerializer(str, return_type=str)]


class Artifact(Spec):
    """Files that are made from the source, once per machine, before the variant can be served."""

    name: str = Field(pattern="^[a-z0-9-]+$")
    maker: str = Field(description="module:function(source folder, target folder, **options)")
    version: int = Field(default=1, description="raised when the maker makes something else; old files are left alone")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the maker")
    of: str | None = Field(default=None, description="the variant whose artifact it is made from, not the source")


class Needs(Spec):
    """The resources that one replica needs. Ray places replicas by these numbers."""

    cpus: float = Field(ge=0)
    gpus: float = Field(default=0, ge=0, description="a fraction shares one GPU; above 1 it is a whole number")
    memory_gib: float = Field(gt=0, description="resident memory of all processes of the replica")
    pictures_gib: float | None = Field(
        default=None,
        gt=0,
        description="of memory_gib, for pictures that are read, kept and written; a quarter if left out",
    )

    @property
    def pictures_bytes(self) -> int:
        return int((self.pictures_gib or self.memory_gib / 4) * (1 << 30))

    @property
    def device(self) -> tuple[str, float]:
        """The kind of device that does the work, "gpu" or "cpu", and how many of them."""
        return ("gpu", self.gpus) if self.gpus else ("cpu", self.cpus)

    @property
    def workers(self) -> int:
        """Worker processes of an engine that runs one per GPU; 1 for a shared GPU or none."""
        return max(1, int(self.gpus))

    @property
    def gpus_per_worker(self) -> float:
        return self.gpus / self.workers

    @model_validator(mode="after")
    def _pictures_are_a_part(self) -> Self:
        if self.pictures_gib and self.pictures_gib >= self.memory_gib:
            raise ValueError("pictures_gib is a part of memory_gib")
        return self

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

    @property
    def most_megapixels(self) -> float:
        """The limit for a picture that a client sends: `megapixels`, or 16 by default."""
        return self.megapixels or 16.0


class ModelSpec(Spec):
    """One row of the catalog: what is true of a model on any cluster."""

    id: ModelId
    task: AnyTask
    title: str
    licence: str
    owner: str
    source: Source
    limits: Limits
    capabilities: frozenset[str] = frozenset()
    settings: SerializeAsAny[Settings] = Field(
        default=Settings(), validate_default=True, description="what only its task has; see models/tasks/<task>.py"
    )
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
                raise ValueError(f"{name} is made from {of!r}, which is not a variant with an artifact")
            if base.artifact.of is not None:
                raise ValueError(f"{name} is made from {of}, which is itself made from a variant")
        return self

    @field_validator("settings", mode="plain")
    @classmethod
    def _of_its_task(cls, value: Any, info: ValidationInfo) -> Settings:
        if (task := info.data.get("task")) is None:  # already reported as an error
            return Settings()
        given = value.model_dump(exclude_unset=True) if type(value) is Settings else value
        return strictly(task.settings, given)

    @model_validator(mode="after")
    def _states_how_much_it_reads(self) -> Self:
        if self.task.reads_tokens and not self.limits.context_tokens:
            raise ValueError("a model that reads tokens states limits.context_tokens")
        return self

    @property
    def row(self) -> str:
        """The id in the catalog: `model` for the name `model@variant`."""
        return self.id.partition("@")[0]

    @property
    def reference_variant(self) -> str:
        return self.reference or self.default_variant

    def at(self, variant: str) -> ModelSpec:
        """This model under the name `model@variant`, with that variant as its default.

        Raises:
            KeyError: it has no such variant.
        """
        self.variant(variant)
        names = {"id": f"{self.row}@{variant}", "default_variant": variant, "reference": self.reference_variant}
        return self.model_copy(update=names)

    def variant(self, name: str | None) -> VariantSpec:
        """The named variant, or the default for None. Raises KeyError, which lists the variants."""
        try:
            return self.variants[self.default_variant if name is None else name]
        except KeyError:
            raise KeyError(f"{self.row} has no variant {name!r}; it has {', '.join(sorted(self.variants))}") from None
