"""Ask the sentiment model that is served on this machine, over REST.

python test_local_http_endpoint.py [--host localhost] [--port 8080] [SENTENCE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request

SENTENCES = [
    "I loved every minute of it.",
    "The soup was cold and the waiter was rude.",
    "Not bad at all, I would happily come back.",
    "I can't say that I enjoyed it.",
]


def classify(url: str, sentences: list[str]) -> list[list[float]]:
    """Probabilities of negative and positive, a row for each sentence."""
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [json.dumps(sentences)]}
    request = urllib.request.Request(
        url, json.dumps({"inputs": [text]}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        output = json.load(response)["outputs"][0]
    data, (rows, width) = output["data"], output["shape"]
    return [data[row * width : (row + 1) * width] for row in range(rows)]


def show(sentences: list[str], rows: list[list[float]]) -> None:
    for sentence, (_, positive) in zip(sentences, rows, strict=True):
        label, probability = ("positive", positive) if positive > 0.5 else ("negative", 1 - positive)
        print(f"{label} {probability:.2f}  {sentence}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask the sentiment model over REST.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    arguments = parser.parse_args()
    url = f"http://{arguments.host}:{arguments.port}/v2/models/sentiment/infer"
    try:
        rows = classify(url, arguments.sentences)
    except urllib.error.HTTPError as error:
        print(f"{url} answered {error.code}: {error.read().decode()}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError) as error:
        print(f"{url} cannot be asked: {error}", file=sys.stderr)
        return 1
    show(arguments.sentences, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
