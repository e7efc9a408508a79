"""The Hugging Face example, as its reader runs it: make the models, serve the folder, ask it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import process

EXAMPLE = Path(__file__).parents[2] / "examples" / "huggingface"

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("mlserver_huggingface")


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / script), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_works() -> None:
    if not all((EXAMPLE / name / "model" / "config.json").is_file() for name in ("sentiment", "storyteller")):
        run("make_models.py")
    with process(EXAMPLE) as server:
        first, second, *story = run("ask.py", server.url).splitlines()
    assert first.startswith("what a wonderful film: POSITIVE")
    assert second.startswith("the meal was dreadful: NEGATIVE")
    assert " ".join(story).startswith("Once upon a time there was a server that answered questions.")
    assert "the server slept well." in " ".join(story)
