"""The command `mlserver`.

What a command needs is imported when it runs, so that `--version` and `--help` answer at once.
"""

from __future__ import annotations

import click

from mlserver.version import __version__

__all__ = ["main", "root"]


@click.group()
@click.version_option(__version__)
def root() -> None:
    """Serve Python models over the V2 / Open Inference Protocol."""


@root.command()
@click.argument("folder")
def start(folder: str) -> None:
    """Serve the models in FOLDER until told to stop; or the one saved model that FOLDER is.

    FOLDER holds a model-settings.json for each model, at any depth, and maybe a settings.json for the server.
    What neither says comes from environment variables (MLSERVER_..., MLSERVER_MODEL_...) or a .env file.
    """
    from mlserver.cli.early import begin_workers, ending_at_once, open_standard_streams
    from mlserver.parallel.launch import end_unused

    open_standard_streams()
    try:
        with ending_at_once():
            begin_workers(folder)
            from mlserver.cli.serve import start_server
        start_server(folder)
    finally:
        end_unused()


@root.command()
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--pin", is_flag=True, help="Print settings that pin what was found, by settings file.")
def audit(folder: str, as_json: bool, pin: bool) -> None:
    """Tell what the models in FOLDER would run when they are loaded, without running it.

    Ends with 0 if all would load under `unsafe_artefacts: refuse`, 1 if something would be refused, 2 if
    FOLDER or settings in it cannot be used.
    """
    from mlserver.cli.audit import audit_folder

    audit_folder(folder, as_json, pin)


@root.command()
@click.argument("folder", required=False)
@click.option(
    "-t",
    "--template",
    default="https://github.com/EthicalML/sml-security/",
    show_default=True,
    help="Template for cookiecutter, which is used when no FOLDER is given.",
)
@click.pass_context
def init(context: click.Context, folder: str | None, template: str) -> None:
    """Write a custom runtime to start from into FOLDER.

    Without FOLDER, let cookiecutter make a project of a template.
    """
    from mlserver.cli.scaffold import run_cookiecutter, write_template

    if folder is None:
        run_cookiecutter(template)
        return
    if context.get_parameter_source("template") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("either FOLDER or --template: cookiecutter chooses the folder itself")
    write_template(folder)


def main() -> None:
    root()


# The package exports this function under this module's name, but `mlserver.cli.main.root` is to work, too.
main.__dict__["root"] = root
