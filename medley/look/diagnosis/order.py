"""What has to be true for a model to answer, in order. The first check that fails is the reason why it does not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from medley.look.diagnosis import deployment, replicas, room
from medley.look.diagnosis.patient import Patient

CHECKS = (
    ("cluster", deployment.cluster_runs),
    ("dashboard", deployment.dashboard_answers),
    ("Serve", deployment.serve_runs),
    ("catalog", deployment.in_catalog),
    ("deployed", deployment.deployed),
    ("weights", deployment.weights_here),
    ("built", deployment.built),
    ("room", room.fits),
    ("start", replicas.started),
    ("stays alive", replicas.stays_alive),
    ("health", replicas.is_well),
    ("router", replicas.router_sees_it),
    ("edge", replicas.edge_answers),
    ("demand", replicas.serves_demand),
    ("promise", replicas.keeps_promise),
    ("request", replicas.answers),
)


class Verdict(StrEnum):
    OK = "ok"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be true.

    Attributes:
        finding: what was found; empty where it was not reached.
        next: what to do, where it failed.
    """

    name: str
    verdict: Verdict
    finding: str = ""
    next: str = ""


def diagnose(patient: Patient) -> list[Check]:
    """All checks, in order. What comes after the first that fails is not looked at: it would only be a consequence."""
    checks: list[Check] = []
    failed = False
    for name, look in CHECKS:
        if failed:
            checks.append(Check(name, Verdict.NOT_REACHED))
            continue
        finding = look(patient)
        failed = not finding.ok
        checks.append(Check(name, Verdict.FAILED if failed else Verdict.OK, finding.text, finding.next))
    return checks
