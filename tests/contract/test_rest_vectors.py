"""Golden REST cases, replayed over a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.values import Case, case_id, cases, load, matches
from tests.running import Served, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("repository")
    models = load()["models"]
    for name, settings in models["settings"].items():
        add_model(folder / name, models["source"], {"name": name, **settings})
    with serving(folder) as server:
        yield server


def add_model(folder: Path, source: str, settings: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "vec_models.py").write_text(source)
    (folder / "model-settings.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("case", cases("rest"), ids=case_id)
def test_rest(case: Case, server: Served) -> None:
    answer = server.post(case["path"], case["body"])
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert answer.status_code == case["status"], body
    if answer.status_code == 422:
        body = {"detail": [{"type": d["type"], "loc": d["loc"]} for d in body["detail"]]}
    assert matches(case["response"], body), body
