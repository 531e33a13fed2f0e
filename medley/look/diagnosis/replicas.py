"""Checks of the replicas themselves, and of the way from a client to them."""

from __future__ import annotations

import re
import time

import httpx

from deployments.router.routes import example_of
from deployments.telemetry import COLD_START
from medley.look.application_status import failure_message, is_model, last_line, wanted_replicas
from medley.look.diagnosis.patient import Finding, Patient, fine, wrong
from medley.look.logs import last_words
from medley.look.screen import duration
from models.errors import BeyondPromise

LOG_LINES = 5
REQUEST_PATIENCE_S = 60


def started(patient: Patient) -> Finding:
    running, wanted = len(patient.running), wanted_replicas(patient.application)
    if patient.starts_failed or patient.keeps_dying:
        return fine(f"{running} of {wanted} replicas run, {len(patient.starting)} start.")
    if running or not wanted:
        how = f"{running} of {wanted} replicas run." if wanted else "It is scaled to zero: a request starts a replica."
        return fine(how)
    if not patient.starting:
        return wrong("Serve has not started a replica yet.", "wait; `medley status` shows it")
    return wrong(_progress(patient), "wait; `medley status` shows how it goes on")


def _progress(patient: Patient) -> str:
    """The phase and its age beside what it usually takes."""
    status = patient.status
    where = f"is in the phase {status.phase_text}" if status.phase else "starts"
    since = f" for {duration(status.phase_s)}" if status.phase_s is not None else ""
    return f"A replica {where}{since}. {_usual(patient)}".rstrip()


def _usual(patient: Patient) -> str:
    """What the phases of the last start took, or the whole of it."""
    labels = {"model": patient.name, **({"variant": patient.status.variant} if patient.status.variant else {})}
    phases: dict[str, float] = {}
    for own, seconds in patient.metrics.samples(COLD_START.series, **labels):
        phases[own["phase"]] = max(seconds, phases.get(own["phase"], 0))
    if phases:
        phase = patient.status.phase or ""
        part = f"That phase took {duration(phases[phase])} the last time, a" if phase in phases else "The last time a"
        return f"{part} whole start {duration(sum(phases.values()))}."
    return f"Its last start took {duration(patient.last_start_s)}." if patient.last_start_s else ""


def stays_alive(patient: Patient) -> Finding:
    if patient.starts_failed:
        return _failed_starts(patient)
    if patient.keeps_dying:
        cause = patient.status.cause or last_line(failure_message(patient.application)) or "Serve does not say why."
        head = f"{patient.ended} replicas have ended since the last deploy, and none runs: {cause}"
        return _with_last_words(patient, [head])
    return fine("No start has failed.")


def _failed_starts(patient: Patient) -> Finding:
    message = failure_message(patient.application)
    cause = patient.status.cause or last_line(message) or "Serve does not say why."
    times = re.search(r"failed to start\s+(\d+) times", message)
    lines = [f"Replicas failed to start{f' {times[1]} times' if times else ''}: {cause}"]
    if patient.running:
        lines.append(f"{len(patient.running)} of the version before still take requests.")
    if patient.application.get("status") == "DEPLOY_FAILED":
        lines.append("Serve does not try again until the document changes: deploy with another `release`.")
    else:
        lines.append("Serve goes on trying.")
    return _with_last_words(patient, lines)


def _with_last_words(patient: Patient, lines: list[str]) -> Finding:
    lines += [f"  {line}" for line in last_words(patient.name, patient.logs, LOG_LINES)]
    told = (patient.live.models or {}).get(patient.name, {})
    return wrong("\n".join(lines), told.get("remedy") or f"`medley logs --model {patient.model}`")


def is_well(patient: Patient) -> Finding:
    if not patient.is_unhealthy:
        return fine("Its health checks pass.")
    why = last_line(failure_message(patient.application)) or "Serve does not say why."
    return wrong(
        f"Serve calls it unhealthy, and replaces its replicas: {why}", f"`medley logs --model {patient.model}`"
    )


def router_sees_it(patient: Patient) -> Finding:
    routers = {name: one for name, one in patient.live.applications.items() if not is_model(one)}
    if not routers:
        return wrong("No router is deployed.", "add it to the config, then `medley deploy`")
    for name, application in routers.items():
        if application.get("status") != "RUNNING":
            why = last_line(failure_message(application))
            text = f"The application {name} is {application.get('status')}." + (f" {why}" if why else "")
            return wrong(text, "`medley status`")
    if patient.live.models is None:
        return fine("The router runs. What it sees is not known, because the edge does not answer.")
    told = patient.live.models.get(patient.name)
    again = f"`medley doctor {patient.model}` again: the router asks Serve once a second"
    if told is None:
        return wrong("Serve says it runs, and the router does not know it.", again)
    if not patient.status.takes_requests:
        cause = f": {told['cause']}" if told.get("cause") else "."
        return wrong(f"Serve says it runs, and the router says {told['state']}{cause}", told.get("remedy") or again)
    return fine(f"The router says {told['state'].replace('_', ' ')}.")


def edge_answers(patient: Patient) -> Finding:
    live = patient.live
    if live.models is not None:
        return fine(f"{live.edge} answers.")
    proxies = ((live.serve or {}).get("proxies") or {}).values()
    sick = [f"The proxy of {one.get('node_ip')} is {one.get('status')}." for one in proxies if _is_sick(one)]
    finding = "\n".join([live.gaps.get("router", f"{live.edge} does not answer."), *sick])
    return wrong(finding, f"`curl -i {live.edge}/healthz`; `medley logs` shows nothing before a request arrives")


def _is_sick(proxy: dict) -> bool:
    return proxy.get("status") != "HEALTHY"


def serves_demand(patient: Patient) -> Finding:
    """Whether what is asked of it is more than its replicas serve, and no more of them come."""
    status = patient.status
    if not status.shortage:
        asked = status.scaling.get("demand")
        return fine("What is asked of it is not known." if asked is None else f"Demand: {asked:.1f} replicas' worth.")
    said = f"{patient.model}: {status.shortage}."
    if status.scaling.get("no_room"):
        return wrong(said, "take a model out, add a machine, or lower max_replicas, then `medley deploy`")
    if status.scaling.get("at_most"):
        # No failure: it may be a burst, and what cannot be served is refused. MedleyDemandUnserved tells if it lasts.
        return Finding(True, said, "raise max_replicas, or choose a faster variant: `medley variant choose`")
    return fine(said)


def keeps_promise(patient: Patient) -> Finding:
    """Up to which size it keeps its promise alone. A limit is no failure, unless even the smallest request is late."""
    found = patient.status.reach
    if found is None:
        return fine("Up to which size of request it keeps a promise is not known.")
    if not found.limited:
        return fine(f"It {found}.")
    return Finding(found.up_to is not None, f"It {found}.", _faster(patient))


def _faster(patient: Patient) -> str:
    """What helps where requests are too large for the promise."""
    return (
        f"a faster variant (`medley variant choose {patient.spec.row}`), more CPUs, or another promise in slo.yaml; "
        "clients send what is larger as batch jobs: `Priority: u=5`"
    )


def answers(patient: Patient) -> Finding:
    """One real request: the example of the model's task."""
    if patient.status.state == "scaled_to_zero":
        return fine("None was sent: it would start a replica.")
    example = example_of(patient.spec.task)
    if example is None:
        return fine(f"None was sent: {patient.spec.task} has no endpoint.")
    address, body = f"{patient.live.edge}{example.path}", example.for_model(patient.name)
    began = time.perf_counter()
    try:
        answer = patient.client.post(address, timeout=REQUEST_PATIENCE_S, json=body)
    except httpx.TimeoutException:
        return wrong(f"A request had no answer after {REQUEST_PATIENCE_S} s.", "`medley top` shows what it works on")
    except httpx.HTTPError as error:
        return wrong(f"A request failed ({type(error).__name__}).", f"`medley logs --model {patient.model}`")
    return _judged(answer, duration(time.perf_counter() - began), patient)


def _judged(answer: httpx.Response, took: str, patient: Patient) -> Finding:
    if answer.is_success:
        return fine(f"Answered after {took}.")
    if answer.status_code == 429:
        return wrong(f"Refused with 429 after {took}: {_error(answer)}", "`medley top`; more replicas, if it stays so")
    if answer.status_code == BeyondPromise.status:
        return wrong(f"Refused with {answer.status_code} after {took}: {_error(answer)}", _faster(patient))
    request_id = answer.headers.get("x-request-id")
    look = f"`medley logs {request_id}`" if request_id else f"`medley logs --model {patient.model}`"
    return wrong(f"Answered {answer.status_code} after {took}: {_error(answer)}", look)


def _error(answer: httpx.Response) -> str:
    try:
        return answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
