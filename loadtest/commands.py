"""`medley loadtest`: each command runs Locust in a process of its own and reads what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.searching import Probe, search_for_rate
from loadtest.verdict import Exit

app = typer.Typer(
    help="Load tests with a verdict. Exit code 0: promises kept, 1: broken, 2: wrong use, 3: not proven, 4: no server, "
    "5: a fault of the harness.",
    no_args_is_help=True,
)
LOCUSTFILE = Path(__file__).parent / "locustfile.py"
JUDGED = (Exit.PASSED, Exit.FAILED, Exit.INCONCLUSIVE)

Host = Annotated[str, typer.Option(envvar="MEDLEY_ADDRESS", help="the server")]
Slo = Annotated[Path, typer.Option(help="file of promises")]
Promises = Annotated[str, typer.Option(help="the profile of that file")]
Rate = Annotated[float | None, typer.Option(help="largest rate, requests per second")]
Seconds = Annotated[float | None, typer.Option(help="length of the schedule")]
Seed = Annotated[int, typer.Option(help="of the schedule and the requests")]
Models = Annotated[str, typer.Option(help="which models, by commas, where a task has several")]
Report = Annotated[Path, typer.Option(help="folder for report.json, .xml, .html and records.jsonl")]
Processes = Annotated[int, typer.Option(min=1, help="processes that send")]
ADDRESS, PROMISES, FOLDER = "http://127.0.0.1:8000", Path(__file__).parents[1] / "slo.yaml", Path("loadtest-report")


@app.command()
def run(  # noqa: PLR0917
    scenario: Annotated[str, typer.Argument(help="a name, or the path of a file")] = "smoke",
    host: Host = ADDRESS,
    slo: Slo = PROMISES,
    promises: Promises = "cpu",
    rate: Rate = None,
    seconds: Seconds = None,
    seed: Seed = 1,
    models: Models = "",
    keys: Annotated[str, typer.Option(help="NAME=ENVIRONMENT_VARIABLE by commas, keys of tenants")] = "",
    report: Report = FOLDER,
    processes: Processes = 1,
) -> None:
    """Run a scenario and judge it."""
    given = {"scenario": scenario, "slo": slo, "promises": promises, "rate": rate, "seconds": seconds, "seed": seed}
    raise typer.Exit(locust(host, processes, **given, models=models, keys=keys, report=report))


@app.command()
def replay(  # noqa: PLR0917
    trace: Annotated[Path, typer.Argument(help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens", exists=True)],
    host: Host = ADDRESS,
    speed: Annotated[float, typer.Option(help="how many times faster than it was recorded")] = 1,
    skip: Annotated[int, typer.Option(help="rows to leave out first")] = 0,
    most: Annotated[int | None, typer.Option(help="rows to replay")] = None,
    scenario: Annotated[str, typer.Option(help="says how lengths are scaled")] = "replay",
    slo: Slo = PROMISES,
    promises: Promises = "cpu",
    report: Report = FOLDER,
    processes: Processes = 1,
) -> None:
    """Replay a recorded trace: its times, divided by `speed`, and its lengths as the scenario scales and cuts them."""
    given = {"scenario": scenario, "trace": trace, "speed": speed, "skip": skip, "most": most}
    raise typer.Exit(locust(host, processes, **given, slo=slo, promises=promises, report=report))


@app.command()
def ab(  # noqa: PLR0917
    against: Annotated[str, typer.Argument(help="address of B; A is --host")],
    scenario: Annotated[str, typer.Option()] = "ab",
    host: Host = ADDRESS,
    slo: Slo = PROMISES,
    promises: Promises = "cpu",
    rate: Rate = None,
    seconds: Seconds = None,
    seed: Seed = 1,
    report: Report = FOLDER,
) -> None:
    """Compare two builds or variants that run at the same time: each request goes to either at random.

    Exit code 1: B is surely slower than A by more than a tenth. What disturbs the machine hits both alike.
    """
    given = {"scenario": scenario, "against": against, "slo": slo, "promises": promises}
    code = locust(host, 1, **given, rate=rate, seconds=seconds, seed=seed, report=report)
    found = json.loads((report / "report.json").read_text()) if code in JUDGED else {}
    slower = [one for one in found.get("comparison", ()) if one["b_is"] == "slower"]
    raise typer.Exit(1 if slower else code)


@app.command()
def search(  # noqa: PLR0917
    scenario: Annotated[str, typer.Argument()] = "saturate",
    host: Host = ADDRESS,
    low: Annotated[float, typer.Option(help="a rate that surely holds")] = 1,
    slo: Slo = PROMISES,
    promises: Promises = "cpu",
    seconds: Seconds = None,
    models: Models = "",
    report: Report = FOLDER,
    exactness: Annotated[float, typer.Option(help="end when the bracket is so narrow, as a share")] = 0.1,
) -> None:
    """Search for the highest rate at which the promises hold: upwards by 1.6, then by halving."""
    from loadtest.report import knee  # here, because it draws: `medley --help` must not wait for that

    def probe(number: int, rate: float) -> Probe:
        folder = report / f"probe-{number:02d}"
        given = {"scenario": scenario, "slo": slo, "promises": promises, "seed": number, "models": models}
        code = locust(host, 1, **given, rate=rate, seconds=seconds, report=folder)
        if code not in JUDGED:
            raise typer.Exit(code)
        return Probe.of(rate, json.loads((folder / "report.json").read_text()))

    found = search_for_rate(probe, low, exactness)
    knee.write(found, report)
    typer.echo(found.words())
    raise typer.Exit(0 if found.low else 1)


@app.command()
def plan(
    scenario: Annotated[str, typer.Argument()] = "smoke",
    slo: Slo = PROMISES,
    promises: Promises = "cpu",
    rate: Rate = None,
    seconds: Seconds = None,
) -> None:
    """Show what a scenario would send, and what it can prove, without sending anything."""
    from loadtest.showing import show_scenario

    raise typer.Exit(show_scenario(scenario, slo, promises, rate, seconds))


@app.command()
def report(folder: Annotated[Path, typer.Argument()] = FOLDER) -> None:
    """Show a report again, from its folder, and write its page anew."""
    from loadtest import records
    from loadtest.report import write
    from loadtest.report.summary import SCHEMA
    from loadtest.report.terminal import show

    try:
        document = json.loads((folder / "report.json").read_text())
        if document.get("schema") != SCHEMA:
            raise ValueError("another version wrote it")
        attempts = list(records.read(folder / "records.jsonl"))
    except (OSError, ValueError) as error:
        typer.secho(f"There is no report in {folder}: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None
    write(document, attempts, folder)
    show(document, sys.stdout)
    typer.echo(f"Page: {folder / 'report.html'}")


def locust(host: str, processes: int, **given: Any) -> int:
    """Run Locust without its web page. Returns its exit code; Locust's own 1 without a report is a fault of ours."""
    if missing := [library for library in ("locust", "scipy") if find_spec(library) is None]:
        typer.secho(
            f"Load tests need {' and '.join(missing)}: pip install 'medley[loadtest]'.", fg=typer.colors.RED, err=True
        )
        return 2
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value not in (None, "")]
    several = ["--processes", str(processes)] if processes > 1 else []
    quiet = ["--headless", "--only-summary", "--loglevel", "WARNING", "--skip-log-setup"]
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host, *several, *quiet, *words]
    written = given["report"] / "report.json"
    written.unlink(missing_ok=True)
    code = subprocess.run(command, env=os.environ, check=False).returncode
    return Exit.HARNESS if code in JUDGED and not written.exists() else code
