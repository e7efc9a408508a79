"""Folders of transformers without settings: recognised, served, and asked as the server says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import huggingface_models
import pytest
from tests.running import process, wait_for


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "task",
    ["text-classification", "fill-mask", "question-answering", "image-classification"],
)
def test_the_request_that_is_printed_works(task: str, tmp_path: Path) -> None:
    folder = huggingface_models.save(task, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "3.5.1"}))
    with process(folder) as server:
        found = wait_for(lambda: re.search(r"^Try it:\n(.+)\n", server.log(), re.MULTILINE), "an example")
        done = subprocess.run(
            ["bash", "-c", f"{found[1]} -w '\\n%{{http_code}}'"], capture_output=True, text=True, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        assert status == "200", body
        assert json.loads(body)["model_name"] == "tiny"
        warnings = [line for line in server.log().splitlines() if "was saved with" in line]
        assert len(warnings) == 1 and "transformers 3.5.1 (" in warnings[0]
