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
    from mlserver.cli.serve import start_server

    start_server(folder)


def main() -> None:
    root()


# The package exports this function under this module's name, but `mlserver.cli.main.root` is to work, too.
main.__dict__["root"] = root
