"""The request that a server prints to try a model with, and what comes of it in a shell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.running import AsProcess, wait_for

__all__ = ["needs_curl", "pasted", "printed_line"]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def printed_line(server: AsProcess) -> str:
    """The request that a server shows."""
    return str(wait_for(lambda: re.search(r"^Try it:\n(.+)\n", server.log(), re.MULTILINE), "an example")[1])


def pasted(line: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer to a line that is pasted into a shell."""
    done = subprocess.run(
        ["bash", "-c", f"{line} -w '\\n%{{http_code}}'"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)
