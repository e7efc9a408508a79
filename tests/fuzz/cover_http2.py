"""The checks of `fuzz_http2`, guided by coverage: atheris keeps what reaches new code, and changes that.

Without atheris the inputs are made by hand, as `fuzz_http2` makes them, from the same corpus. Each input is
taken whole and byte by byte.

    python -m tests.fuzz.cover_http2 --seconds 600 [--keep DIR]

begins with the corpus in the repository, and keeps what it finds in DIR. What of that reaches code that the
corpus does not is added to it by

    python -m tests.fuzz.cover_http2 --merge DIR
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

atheris: Any = None
if __name__ == "__main__":
    with suppress(ImportError):
        import atheris

# What is imported first is what is measured.
with atheris.instrument_imports(include=["mlserver.wire.http2"]) if atheris else nullcontext():
    from mlserver.wire.http2 import PREFACE
    from tests.fuzz.fuzz_http2 import TOKENS, Fuzzer, shuffled
    from tests.fuzz.mutate import CORPUS, Mutator, seeds
    from tests.http2 import parse

FOUND = CORPUS / "http2_found"
LONGEST = 1_024  # bytes of an input


def check(data: bytes) -> set[str]:
    """Judge one input; what came of it. Raises AssertionError for whatever is wrong."""
    fuzzer = Fuzzer(random.Random(0))
    fuzzer.check_in(data, [data[at : at + 1] for at in range(len(data))])
    return {name for name, count in fuzzer.outcomes.items() if count}


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change frames as often as bytes."""
    choose = random.Random(seed)
    kind = choose.random()
    if kind < 0.5 and data.startswith(PREFACE):
        try:
            whole = [data] if parse(data[len(PREFACE) :]) else []
        except Exception:  # half a frame
            whole = []
        if whole:
            return shuffled(choose, [*whole, choose.choice(seeds("http2"))])[:max_size]
    if kind < 0.75 or atheris is None:
        return Mutator(choose, [data], TOKENS, most=max_size).make()
    changed: bytes = atheris.Mutate(data, max_size)
    return changed


def _guided(seconds: int, keep: str) -> None:
    options = ["-timeout=10", "-rss_limit_mb=2048", f"-max_len={LONGEST}", "-print_final_stats=1"]
    options += [f"-max_total_time={seconds}", keep, str(FOUND), str(CORPUS / "http2")]
    atheris.Setup([sys.argv[0], *options], check, custom_mutator=mutate)
    atheris.Fuzz()


def _unguided(seconds: float) -> int:
    """How many inputs there was time for."""
    choose = random.Random(0)
    corpus = [*seeds("http2"), *seeds(FOUND.name)]
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = mutate(choose.choice(corpus), LONGEST, choose.randrange(2**32))
        try:
            check(data)
        except Exception:
            print(f"at {data!r}:")
            raise
        count += 1
    return count


def reached(data: bytes) -> set[tuple[str, int, int]]:
    """Which line of the core led to which other one."""
    steps: set[tuple[str, int, int]] = set()
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if Path(frame.f_code.co_filename).parent.name != "http2":
            return None
        steps.add((frame.f_code.co_filename, last.get(id(frame), 0), frame.f_lineno))
        last[id(frame)] = frame.f_lineno
        if event == "return":
            del last[id(frame)]
        return trace

    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return steps


def _merge(folder: Path) -> None:
    steps: set[tuple[str, int, int]] = set().union(*map(reached, [*seeds("http2"), *seeds(FOUND.name)]))
    for data in sorted((path.read_bytes() for path in folder.iterdir()), key=len):
        if new := reached(data) - steps:
            steps |= new
            (FOUND / f"{hashlib.sha1(data).hexdigest()[:12]}.h2").write_bytes(data)
    files = [path.stat().st_size for path in FOUND.iterdir()]
    print(f"{len(files)} files of {sum(files):,} bytes reach {len(steps):,} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep")
    parser.add_argument("--merge", type=Path)
    arguments = parser.parse_args()
    FOUND.mkdir(exist_ok=True)
    if arguments.merge:
        _merge(arguments.merge)
    elif atheris is None:
        print(f"without atheris, and so without guidance: {_unguided(arguments.seconds):,} inputs")
    else:
        with tempfile.TemporaryDirectory() as folder:
            _guided(arguments.seconds, arguments.keep or folder)
