"""What runs code in a folder of a model, or comes from elsewhere, is refused where settings say so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_asking import Serve

from mlserver.errors import MLServerError

REFUSE: dict[str, Any] = {"unsafe_artefacts": "refuse"}
TASK = "text-classification"


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def folder(folder_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of(TASK), tmp_path / "model"))


async def test_safetensors_run_nothing(serve: Serve, folder: Path) -> None:
    await serve(TASK, folder, settings=REFUSE)


async def test_pickled_weights(serve: Serve, folder: Path, tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "marker"), folder / "pytorch_model.bin")
    with pytest.raises(MLServerError, match=r"pytorch_model\.bin .* may run posix\.system") as refused:
        await serve(TASK, folder, settings=REFUSE)
    assert refused.value.status_code == 422 and not (tmp_path / "marker").exists()


async def test_code_of_the_model(serve: Serve, folder: Path) -> None:
    (folder / "modeling.py").write_text("")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    await serve(TASK, folder, settings=REFUSE)  # without consent, it is not imported
    with pytest.raises(MLServerError, match="is Python code"):
        await serve(TASK, folder, settings=REFUSE, model_kwargs={"trust_remote_code": True})


@pytest.mark.parametrize("where", [{"pretrained_model": "somebody/model"}, {"pretrained_tokenizer": "a/b"}])
async def test_models_of_the_hub(where: dict[str, str], serve: Serve, folder: Path) -> None:
    with pytest.raises(MLServerError, match=f"{next(iter(where.values()))} is not on this machine"):
        await serve(TASK, folder, settings=REFUSE, **where)
