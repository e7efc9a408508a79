"""`mlserver audit`: what the models of a folder would run, in words, in JSON, or as settings that pin it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from mlserver.audit.pickles import shown
from mlserver.audit.report import Report, audit, grouped
from mlserver.errors import StartError

__all__ = ["audit_folder"]

REFUSED = 1
BAD_FOLDER = 2


def audit_folder(folder: str, as_json: bool, pin: bool) -> None:
    """Print what loading the models in `folder` would run. Ends the process: 0, or 1 where something would be
    refused under `refuse`, or 2 where the folder or a file of settings in it cannot be used.
    """
    try:
        reports, broken = audit(folder)
    except StartError as exc:
        click.echo(f"Error: {exc}", err=True)
        sys.exit(BAD_FOLDER)
    if not reports and not broken:
        broken = [f"there are no models in '{folder}'"]
    if pin:
        click.echo(json.dumps(_pins(reports), indent=2))
        for file in (file for report in reports for file in report.loads):
            dangerous = [*map(shown, grouped(file.names)["dangerous"])]
            doubts = [f"it may run {', '.join(dangerous)}"] if dangerous else file.undecided
            if doubts:
                click.echo(f"Warning: look at {file.path} before you trust it: {doubts[0]}", err=True)
    elif as_json:
        click.echo(json.dumps({"models": [r.as_dict() for r in reports], "broken": broken}, indent=2))
    else:
        for report in reports:
            click.echo("\n".join(_lines(report)) + "\n")
    for problem in broken:
        click.echo(f"Error: {problem}", err=True)
    if broken:
        sys.exit(BAD_FOLDER)
    sys.exit(REFUSED if any(report.refusals for report in reports) else 0)


def _lines(report: Report) -> Iterator[str]:
    version = f", version {report.version}" if report.version else ""
    yield f"{report.name or '(no name)'}{version}"
    yield f"  class        {report.implementation} ({report.origin})"
    if report.remote_code:
        yield "  remote code  trusted: Python files of the model run, from the hub if it comes from there"
    for line in report.environment:
        yield f"  environment  {line}"
    base = os.path.dirname(report.source or "")
    for file in report.loads:
        path = os.path.relpath(file.path, base) if base else file.path
        runs = "runs code" if file.runs_code else "runs no code"
        yield f"  file         {path}: {file.format}, {runs}"
        yield f"               {file.sha256}"
        for group, names in grouped(file.names).items():
            if names:
                yield f"               imports, {group}: {', '.join(map(shown, names))}"
        for reason in file.undecided:
            yield f"               undecided: {reason}"
    if not report.refusals:
        yield "  verdict      loads under `unsafe_artefacts: refuse`"
    for number, reason in enumerate(report.refusals):
        yield f"  {'' if number else 'refused':<13}{reason}"


def _pins(reports: list[Report]) -> dict[str, Any]:
    """For each file of settings, by its path, what to add to it."""
    return {
        report.source or "model-settings.json": {
            "unsafe_artefacts": "refuse",
            "trusted_digests": sorted({file.sha256 for file in report.loads}),
        }
        for report in reports
    }
