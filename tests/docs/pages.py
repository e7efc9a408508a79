"""What documents show, as tests take it out of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.running import TIMEOUT, process

__all__ = ["DOCS", "ROOT", "blocks", "curl_bodies", "train_serve_ask"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(document: Path, opening: str) -> list[str]:
    """The fenced blocks of a document that open with these words."""
    return re.findall(rf"^```{re.escape(opening)}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def curl_bodies(document: Path) -> list[tuple[str, str]]:
    """Path and body of every inference that a document asks for with curl."""
    return re.findall(
        r"curl (?:-sS http://)?localhost:8080(/v2/models/\w+/infer) -d '(.*?)'",
        document.read_text(),
        re.DOTALL,
    )


def train_serve_ask(page: Path, folder: Path, *, train: float = 100.0, start: float = TIMEOUT) -> None:
    """Do in `folder` what a page about a runtime shows. train, start: seconds that these may take."""
    (folder / "train.py").write_text(blocks(page, "python file=train.py")[0])
    (folder / "model-settings.json").write_text(blocks(page, "json file=model-settings.json")[0])
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=train)
    with process(folder, timeout=start) as server:
        exec(blocks(page, "python client")[0], {"server": server.url})
