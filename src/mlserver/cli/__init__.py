"""Command line: `mlserver start FOLDER`, `mlserver audit FOLDER`."""

from mlserver.cli.main import main

__all__ = ["main"]
