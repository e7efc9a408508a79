"""Folders of transformers without settings: recognised, served, and asked as the server says."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_models
import pytest
from tests.running import process
from tests.trying import needs_curl, pasted, printed_line


@needs_curl
@pytest.mark.parametrize(
    "task",
    ["text-classification", "fill-mask", "question-answering", "image-classification"],
)
def test_the_request_that_is_printed_works(task: str, tmp_path: Path) -> None:
    folder = huggingface_models.save(task, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "3.5.1"}))
    with process(folder) as server:
        status, answer = pasted(printed_line(server))
        assert status == 200, answer
        assert answer["model_name"] == "tiny"
        warnings = [line for line in server.log().splitlines() if "was saved with" in line]
        assert len(warnings) == 1 and "transformers 3.5.1 (" in warnings[0]
