"""`medley plan`, `medley deploy` and `medley rollback`: what would change, changing it, and taking it back."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console

from medley.change import history
from medley.change.differences import Kind, compare, deployed
from medley.change.lock import only_writer
from medley.change.plan import Paces, Plan, paces_in
from medley.change.plan import plan as plan_of
from medley.change.progress import show_progress
from medley.change.rollout import DeployFailed, Rollout
from medley.change.serve_rest import edge, live, put, read_readiness
from medley.change.surge import SURGE, free_resources
from medley.checks.config import ClusterConfig, ConfigError, read_config
from medley.local.cluster import ClusterError, dashboard
from medley.local.home import make_home
from models.secret_file import SecretUnsafe

console = Console(highlight=False, soft_wrap=True)
DEFAULT_CONFIG = Path("serve_config.yaml")
WAIT_POLL_S = 2.0

ConfigPath = Annotated[Path, typer.Argument(help="the serve config")]


def seconds(value: float) -> float:
    """Refuses what is no time: a wait of `nan` seconds would never end."""
    if not 0 <= value < math.inf:
        raise typer.BadParameter("write a number of seconds, such as 600.")
    return value


Patience = Annotated[float, typer.Option(help="seconds to wait for every model to be ready", callback=seconds)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask, even if clients would notice")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what would be done")]
To = Annotated[int | None, typer.Option(help="the number of a document that went live, of this cluster or another")]
List = Annotated[bool, typer.Option("--list", help="only show the documents that there are to go back to")]


def plan(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Show what a deploy would change, and whether clients would notice. Changes nothing."""
    with failures_in_words():
        change(read_config(config), 0, "", dry_run=True)


def deploy(
    config: ConfigPath = DEFAULT_CONFIG, patience: Patience = 600, yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Bring a running cluster to what the config says, touching only what differs."""
    with failures_in_words():
        change(read_config(config), patience, f"deploy of {config.name}", yes, dry_run)


def rollback(
    to: To = None, patience: Patience = 600, yes: Yes = False, dry_run: DryRun = False, show_list: List = False
) -> None:
    """Bring the cluster back to the last document that went live on it before the one that is deployed now."""
    with failures_in_words():
        for sentence in history.damaged():
            console.print(sentence, markup=False)
        if show_list:
            list_documents()
            return
        with dashboard() as serve:
            answer = live(serve)
        entry = target(to, answer)
        console.print(f"Back to {entry}, by {entry.by}, {whose(entry, answer)}:", markup=False)
        change(history.config_of(entry), patience, f"rollback to document {entry.number}", yes, dry_run)


def list_documents() -> None:
    """Every document that went live, newest first. It needs no cluster."""
    answer: dict[str, Any] = {}
    with contextlib.suppress(ClusterError), dashboard() as serve:
        answer = live(serve)
    found = history.entries()
    for entry in reversed(found):
        console.print(f"{entry}, by {entry.by}, {whose(entry, answer)}", markup=False)
    if not found:
        console.print("No document has gone live completely yet.")


def whose(entry: history.Entry, answer: dict[str, Any]) -> str:
    """On which cluster a document went live: this one, or which other one."""
    if entry.cluster and entry.cluster == history.cluster_of(answer):
        return "of this cluster"
    started = history.started_with(entry.cluster) if entry.cluster else None
    which = f"that was started at {started.time:%Y-%m-%d %H:%M} UTC" if started else "of another time"
    return f"of another cluster, {which}"


def target(to: int | None, answer: dict[str, Any]) -> history.Entry:
    """The document to go back to.

    Args:
        to: its number. None: the last document that went live on this cluster, or the one before it if the last is
            live now. What another cluster ran is never meant without its number.
        answer: what is deployed.

    Raises:
        ClusterError: there is none.
    """
    if to is not None:
        if entry := history.numbered(to):
            return entry
        have = ", ".join(str(entry.number) for entry in history.entries()) or "none"
        raise ClusterError(f"Document {to} is not kept. There are: {have}.")
    cluster = history.cluster_of(answer)
    last = history.latest_good(cluster)
    if last is None:
        why = "No document has gone live completely on this cluster yet, so there is none to go back to."
    elif not is_live(last.document, answer):
        return last
    elif entry := history.before(last.number, cluster):
        return entry
    else:
        why = f"{last} is live, and there is none before it of this cluster."
    raise ClusterError(f"{why}{of_others(cluster)}")


def of_others(cluster: str) -> str:
    """How to go back to what another cluster ran; empty where there is nothing."""
    others = [entry for entry in history.entries() if entry.cluster != cluster]
    if not others:
        return ""
    return f" The last of another cluster is {others[-1]}: `medley rollback --to {others[-1].number}`."


def is_live(document: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether this document is what is deployed. `max_surge_percent` does not count, because a deploy decides it."""
    return all(
        one.kind is Kind.UNCHANGED
        or (one.kind is Kind.IN_PLACE and all(difference.path[-1] == SURGE for difference in one.differences))
        for one in compare(answer, document)
    )


def change(wanted: ClusterConfig, patience_s: float, note: str, yes: bool = False, dry_run: bool = False) -> None:
    """Plan, ask first if clients would notice, then go live. Where nobody can be asked, only `yes` goes on.

    Raises:
        ClusterError: nothing was changed, or not all of it came up; the message says what serves and how to go back.
    """
    with contextlib.nullcontext() if dry_run else only_writer(), dashboard() as serve:
        before = live(serve)
        proposal = propose(before, wanted, serve)
        show(proposal)
        if dry_run:
            return
        if proposal.interrupts and not yes:
            ask(proposal)
        fetch_models(wanted)
        refuse_if_changed(before, live(serve))
        with history.prepared(wanted.document, note, started=not before.get("controller_info")) as pending:
            put(proposal.document, wanted.path.name, serve)
            try:
                see_through(Rollout(proposal, before), serve, edge(wanted, before), patience_s)
            except DeployFailed as error:
                raise DeployFailed(f"{error}\n{way_back(wanted, before)}".rstrip()) from None
            pending.keep(history.cluster_of(before) or history.cluster_of(live(serve)))


def ask(proposal: Plan) -> None:
    """Have a person say that it may go on.

    Raises:
        ClusterError: nobody is there: this is a script, or a job of a machine.
        typer.Abort: the person says no.
    """
    if someone_answers():
        typer.confirm("Go on?", abort=True)
        return
    noticed = ", ".join(change.app for change in proposal.changes if change.interrupts)
    raise ClusterError(
        f"Requests would notice this ({noticed}), and there is no terminal to ask in. Nothing was done. "
        "With --yes it is done without asking."
    )


def someone_answers() -> bool:
    """Whether a person can read the question and answer it."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def start(wanted: ClusterConfig, patience_s: float) -> None:
    """Deploy to a cluster that has just been started, whose dashboard may not answer yet.

    Raises:
        ClusterError: not all of it came up.
    """
    with only_writer(), dashboard() as serve:
        before = live(serve, patience_s=60)
        proposal = propose(before, wanted, serve)
        for app, choice in wanted.choices.items():
            console.print(f"{app}: {choice}", markup=False)
        for warning in proposal.warnings:
            console.print(f"Warning: {warning}", markup=False)
        with history.prepared(wanted.document, f"start with {wanted.path.name}", started=True) as pending:
            put(proposal.document, wanted.path.name, serve)
            see_through(Rollout(proposal, before), serve, edge(wanted, before), patience_s)
            pending.keep(history.cluster_of(live(serve)))


def refuse_if_changed(before: dict[str, Any], now: dict[str, Any]) -> None:
    if deployed(now) != deployed(before):
        raise ClusterError(
            "Another writer changed what is deployed since this plan was made, so nothing was done. "
            "Run `medley plan` again."
        )


def see_through(rollout: Rollout, serve: httpx.Client, router: httpx.Client, patience_s: float) -> None:
    """Show the progress until every application is ready."""
    try:
        with router:
            show_progress(rollout.follow(serve, router, patience_s), console)
    finally:
        history.keep_cold_starts(rollout.cold_starts)


def propose(answer: dict[str, Any], wanted: ClusterConfig, serve: httpx.Client) -> Plan:
    cluster = history.cluster_of(answer)
    started, good = history.started_with(cluster), history.latest_good(cluster)
    return plan_of(
        answer,
        wanted,
        free_resources(serve),
        cold_starts=history.cold_starts(),
        started_with=started.document if started else None,
        last_good=good.document if good else None,
        paces=known_paces(wanted, answer),
    )


def known_paces(wanted: ClusterConfig, answer: dict[str, Any]) -> Paces:
    """What the router knows of them; empty where none runs or answers."""
    if not answer.get("applications"):
        return {}
    with edge(wanted, answer) as router:
        return paces_in(read_readiness(router).models)


def show(proposal: Plan) -> None:
    for line in proposal.lines():
        console.print(line, markup=False)
    if proposal.is_empty:
        console.print("Nothing differs.")


def way_back(wanted: ClusterConfig, before: dict[str, Any]) -> str:
    """What a rollback would do after a deploy of `wanted` failed; empty when there is nothing to go back to."""
    cluster = history.cluster_of(before)
    entry = history.latest_good(cluster)
    if entry and entry.document == wanted.document:
        entry = history.before(entry.number, cluster)
    return f"`medley rollback` goes back to {entry}." if entry else ""


def fetch_models(config: ClusterConfig, verify: bool = False) -> None:
    """Fetch the weights of every model that this machine does not have yet.

    Args:
        verify: also hash every file, and replace what is damaged.

    Raises:
        ClusterError: the weights of a model cannot be had.
    """
    from models import weights

    make_home()
    for model in config.models:
        get = weights.mend if verify else weights.fetch
        try:
            get(model.spec, model.variant, lambda text, name=model.app: console.print(f"  {name}: {text}"))
            weights.note_fetched(model.spec, model.variant)
        except Exception as error:
            raise ClusterError(f"{model.app}: its weights cannot be had. {error}") from error
        if verify:
            console.print(f"  {model.app}: every file is whole")


def wait_for_models(config: ClusterConfig, patience_s: float) -> None:
    """Wait until another process has fetched the weights of every model to the folder that this one reads.

    Raises:
        ClusterError: not all of them are there in time. The message says which, and what fetches them.
    """
    from models import weights

    deadline, shown = time.monotonic() + patience_s, ""
    while wanting := ", ".join(one.app for one in config.models if not weights.is_fetched(one.spec, one.variant)):
        if wanting != shown:
            console.print(f"Waiting for the weights of {wanting}.", markup=False)
            shown = wanting
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{wanting}: nobody has fetched the weights to {weights.home()} in {patience_s:g} s, and --wait "
                f"fetches nothing itself. `medley fetch {config.path}` does, where the hub is in reach. On Kubernetes "
                "it is the Job medley-preload: look at its log, or delete it and apply the overlay again."
            )
        time.sleep(WAIT_POLL_S)


@contextlib.contextmanager
def failures_in_words() -> Iterator[None]:
    """Turn an error into a message and exit code 1."""
    try:
        yield
    except (ClusterError, ConfigError, SecretUnsafe) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)
    raise typer.Exit(1)
