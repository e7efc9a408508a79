"""A bounded part of the fuzzing, the same inputs every time. The long runs are commands of their own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.fuzz import cover_http2, fuzz_http, fuzz_http2, fuzz_json, fuzz_protobuf
from tests.fuzz.mutate import CORPUS, Mutator, seeds

_STATUSES = {"200", "400", "422"}
_CODES = {"fine", "answers", "PROTOCOL_ERROR", "FRAME_SIZE_ERROR", "ENHANCE_YOUR_CALM", "COMPRESSION_ERROR"}


@pytest.mark.parametrize(
    ("fuzz", "runs", "outcomes"),
    [
        (fuzz_http, 8_000, _STATUSES),
        (fuzz_http2, 5_000, _CODES),
        (fuzz_json, 20_000, _STATUSES),
        (fuzz_protobuf, 20_000, {"no message", "refused", "echoed"}),
    ],
    ids=["http", "http2", "json", "protobuf"],
)
def test_fuzz(fuzz: Any, runs: int, outcomes: set[str]) -> None:
    summary = fuzz.run(runs, seed=20_000)
    assert summary.runs == runs
    assert outcomes <= summary.outcomes.keys(), summary
    assert summary.resident_after < summary.resident_before + 24, summary


@pytest.mark.parametrize("kind", ["http", "http2", "json"])
def test_the_corpus_is_small(kind: str) -> None:
    sizes = [path.stat().st_size for path in (CORPUS / kind).iterdir()]
    assert 10 < len(sizes) < 60 and sum(sizes) < 100_000


def test_what_coverage_has_found() -> None:
    """The corpus of `cover_http2`, and some changes of it."""
    choose = random.Random(0)
    corpus = [*seeds("http2"), *seeds("http2_found")]
    outcomes = set().union(*map(cover_http2.check, corpus))
    assert outcomes >= _CODES | {"FLOW_CONTROL_ERROR", "STREAM_CLOSED"}
    for data in corpus:
        cover_http2.check(cover_http2.mutate(data, cover_http2.LONGEST, choose.randrange(2**32)))
    sizes = [len(data) for data in corpus]
    assert 20 < len(sizes) < 200 and sum(sizes) < 200_000


def test_a_run_can_be_repeated() -> None:
    def some(seed: int) -> list[bytes]:
        make = Mutator(random.Random(seed), seeds("http"), fuzz_http.TOKENS, joins=True)
        return [make.make() for _ in range(100)]

    assert some(1) == some(1) != some(2)
