"""The document that the tests of every commit deploy, beside the one that they start with."""

import copy
from typing import Any

from local_cluster import EMBEDDINGS, application

STYLES, REMOVED = "magenta-styles", "realesr-animevideov3"
CHANGED = {EMBEDDINGS: "torch"}


def changed(document: dict[str, Any]) -> dict[str, Any]:
    """Another variant of one model; one that goes to sleep at once; and one that is taken out."""
    new = copy.deepcopy(document)
    for app, variant in CHANGED.items():
        application(new, app)["args"]["variant"] = variant
    scaling = application(new, STYLES)["deployments"][0]["autoscaling_config"]
    scaling |= {"downscale_delay_s": 2, "downscale_to_zero_delay_s": 2}
    new["applications"].remove(application(new, REMOVED))
    return new
