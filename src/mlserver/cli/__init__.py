"""Command line: `mlserver start FOLDER`."""

from mlserver.cli.main import main

__all__ = ["main"]
