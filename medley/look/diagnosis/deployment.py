"""Checks of what has to be there before a replica can start: cluster, catalog, document, weights, builder."""

from __future__ import annotations

from pathlib import Path

import yaml

from medley.look.application_status import last_line, statuses
from medley.look.diagnosis.patient import Finding, Patient, fine, wrong
from medley.look.status import weights_missing
from models.catalog import load_catalog
from models.errors import ModelNotFound

DEFAULT_CONFIG = "serve_config.yaml"


def cluster_runs(patient: Patient) -> Finding:
    if patient.processes:
        return fine(f"{patient.processes} processes of the cluster run here.")
    if patient.live.reachable:
        return fine("No process here is of this MEDLEY_HOME, but a cluster answers.")
    return wrong("No process of a cluster runs here.", "`medley up`")


def dashboard_answers(patient: Patient) -> Finding:
    if patient.live.serve is not None:
        return fine("Ray's dashboard answers.")
    log = patient.logs.parent / "dashboard.log"
    return wrong(patient.live.gaps.get("serve", "Ray's dashboard does not answer."), f"`tail {log}`")


def serve_runs(patient: Patient) -> Finding:
    if (patient.live.serve or {}).get("controller_info"):
        return fine("Serve's controller runs.")
    return wrong("Ray runs and Serve does not: nothing was deployed yet.", "`medley deploy`")


def in_catalog(patient: Patient) -> Finding:
    catalog = load_catalog()
    if patient.model is None:
        return fine(f"The catalog has {len(catalog)} models.")
    try:
        spec = catalog.resolve(patient.model)
    except ModelNotFound as error:
        return wrong(error.message, "`medley models`")
    return fine(f"{spec.title}, {spec.task}.")


def deployed(patient: Patient) -> Finding:
    if patient.model is None:
        return wrong("No model is deployed.", f"`medley deploy {DEFAULT_CONFIG}`")
    if not patient.application:
        if others := _same_variant_elsewhere(patient):
            finding = f"No application is called {patient.model}; the same variant is served by {others[0]}."
            return wrong(finding, f"`medley doctor {others[0]}`")
        return wrong(f"{patient.model} is not deployed.", _way_to_deploy(patient.model, patient.here))
    if patient.application.get("status") == "DELETING":
        return wrong("It is being taken out; its replicas finish what they work on.", "`medley deploy` brings it back")
    return fine(f"Deployed as {patient.status.variant}, release {patient.status.release}.")


def _same_variant_elsewhere(patient: Patient) -> list[str]:
    """Applications that answer for `model@variant`, or for the plain name of a model, in the place of the one named."""
    rows = [one for one in statuses(patient.live) if one.app.partition("@")[0] == patient.spec.row]
    return [one.app for one in rows if one.variant == patient.spec.default_variant]


def _way_to_deploy(model: str, folder: Path) -> str:
    """The command to run if a config in this folder has the model; otherwise, what to write first."""
    for file in sorted(folder.glob("serve_config*.yaml"), key=lambda one: (one.name != DEFAULT_CONFIG, one.name)):
        if model in _applications(file):
            look = "" if file.name == DEFAULT_CONFIG else f"`medley plan {file.name}` shows what else it changes, then "
            return f"{look}`medley deploy {file.name}`"
    return f"add an application {model} to {DEFAULT_CONFIG}, then `medley deploy`"


def _applications(file: Path) -> list[str]:
    try:
        return [one["name"] for one in yaml.safe_load(file.read_text())["applications"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []


def weights_here(patient: Patient) -> Finding:
    missing = weights_missing(patient.spec, patient.variant)
    if not missing:
        return fine("The weights are on this machine.")
    if patient.running:
        return fine("The weights are not on this machine, but a replica runs with them.")
    if patient.status.phase == "fetch":
        return fine("The weights are not on this machine yet; a replica fetches them.")
    return wrong(missing, "`medley fetch`")


def built(patient: Patient) -> Finding:
    """Whether Serve could make deployments of the application's code and arguments."""
    if patient.application.get("deployments"):
        return fine("Serve built it.")
    if patient.application.get("status") == "DEPLOY_FAILED":
        cause = last_line(patient.application.get("message") or "") or "Serve does not say why."
        return wrong(f"Serve could not build it: {cause}", "fix that, then `medley check` and `medley deploy`")
    return wrong("Serve is building it, or has not begun.", "wait; `medley status` shows how it goes on")
