"""`mlserver init`: a custom runtime to start from, ours or one that cookiecutter makes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib import resources

import click

from mlserver.logging import configure_logger, logger
from mlserver.recognition import name_of

__all__ = ["FILES", "run_cookiecutter", "write_template"]

FILES = ("model.py", "model-settings.json", "settings.json", "README.md", "test_model.py")

_NAME = "my-model"  # of the model in the template


def write_template(folder: str) -> None:
    """Write the files of a custom runtime into `folder`, which is made if need be.

    The model is named after the folder. Raises ClickException naming the files that are there already; then
    none is written.
    """
    taken = [name for name in FILES if os.path.lexists(os.path.join(folder, name))]
    if taken:
        raise click.ClickException(f"'{folder}' has {', '.join(taken)} already: nothing was written")
    name = name_of(folder)
    template = resources.files("mlserver.cli") / "template"
    try:
        os.makedirs(folder, exist_ok=True)
        for file in FILES:
            text = (template / file).read_text("utf-8").replace(_NAME, name)
            with open(os.path.join(folder, file), "x", encoding="utf-8") as target:
                target.write(text)
    except OSError as exc:
        raise click.ClickException(f"'{folder}' cannot be written: {exc.strerror}") from exc
    click.echo(f"Wrote {', '.join(FILES)}. Serve the model with: mlserver start {shlex.quote(folder)}")


def run_cookiecutter(template: str) -> None:
    """Let cookiecutter make a project of a template, and end as it does. Without it, say how to get it."""
    configure_logger()
    program = shutil.which("cookiecutter")
    if program is None:
        logger.error(
            "cookiecutter, which makes projects of templates, is not installed: pip install cookiecutter; "
            "or write a custom runtime without it: mlserver init FOLDER"
        )
        return
    code = subprocess.run([program, template], check=False).returncode
    if code:
        sys.exit(code)
