"""Asks both models of this example: `python ask.py [http://localhost:8080]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import requests


def tensor(name: str, data: list[Any], datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}


def classify(server: str, texts: list[str]) -> list[dict[str, Any]]:
    body = {"inputs": [tensor("array_inputs", texts)]}
    answer = requests.post(f"{server}/v2/models/sentiment/infer", json=body, timeout=30)
    answer.raise_for_status()
    return [json.loads(element) for element in answer.json()["outputs"][0]["data"]]


def tell(server: str, beginning: str, tokens: int) -> Iterator[str]:
    """The story, piece by piece, as it is generated."""
    body = {
        "inputs": [
            tensor("args", [beginning]),
            tensor("max_new_tokens", [tokens], "INT64"),
            tensor("do_sample", [False], "BOOL"),
        ]
    }
    url = f"{server}/v2/models/storyteller/infer_stream"
    with requests.post(url, json=body, stream=True, timeout=30) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                (element,) = json.loads(line[6:])["outputs"][0]["data"]
                yield json.loads(element)["generated_text"]


def main(server: str = "http://localhost:8080") -> None:
    texts = ["what a wonderful film", "the meal was dreadful"]
    for text, answer in zip(texts, classify(server, texts), strict=True):
        print(f"{text}: {answer['label']} ({answer['score']:.2f})")
    beginning = "Once upon a time"
    print(beginning, end="", flush=True)
    for piece in tell(server, beginning, 120):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
