"""`medley monitoring`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medley.monitoring.files import files
from models.slo import load_slo


def monitoring(
    out: Annotated[Path, typer.Option(help="the folder to write to")] = Path("monitoring"),
    profile: Annotated[str, typer.Option(help="the profile of slo.yaml whose limits count")] = "cpu",
    slo: Annotated[Path, typer.Option(help="what users are promised")] = Path("slo.yaml"),
) -> None:
    """Write the scrape configuration, rules, alerts and dashboard for Prometheus and Grafana."""
    try:
        texts = files(load_slo(slo), profile)
    except (ValueError, KeyError) as error:
        typer.secho(error.args[0], fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    for name, text in texts.items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        typer.echo(f"  {target}")
    typer.echo(f"\nNext: prometheus --config.file={out}/prometheus.yml; docs/metrics.md says the rest.")
