"""What the fuzzers share: seeds from files, changes to them, and runs that can be repeated."""

from __future__ import annotations

import argparse
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def seeds(kind: str) -> list[bytes]:
    """The files of one kind, each an input that is worth changing."""
    return [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]


@dataclass
class Mutator:
    """Makes inputs: seeds with a few changes, now and then nothing but noise.

    tokens: pieces of the language in question, which chance alone would not find.
    joins: whether several seeds may stand one after another.
    """

    random: random.Random
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    joins: bool = False
    most: int = 1 << 16

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self.make()

    def make(self) -> bytes:
        choose = self.random
        if choose.random() < 0.02:
            return choose.randbytes(choose.randrange(64))
        data = choose.choice(self.seeds)
        while self.joins and choose.random() < 0.35:
            data += choose.choice(self.seeds)
        for _ in range(choose.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            data = self._change(data)
        return data[: self.most]

    def _change(self, data: bytes) -> bytes:
        choose = self.random
        at = choose.randint(0, len(data))
        end = min(len(data), at + choose.choice((1, 1, 2, 4, 16, 64)))
        kind = choose.randrange(9)
        if kind == 0:  # another byte
            return data[:at] + bytes([choose.randrange(256)]) + data[at + 1 :]
        if kind == 1:  # another bit
            return (
                data[:at]
                + bytes(byte ^ 1 << choose.randrange(8) for byte in data[at : at + 1])
                + data[at + 1 :]
            )
        if kind == 2:
            return data[:at] + data[end:]
        if kind == 3:
            return data[:end] + data[at:end] * choose.choice((1, 1, 2, 50)) + data[end:]
        if kind == 4:
            return data[:at] + choose.choice(self.tokens) + data[end:]
        if kind in (5, 6):
            return data[:at] + choose.choice(self.tokens) + data[at:]
        if kind == 7:  # another number
            return self._change_number(data)
        other = choose.choice(self.seeds)
        cut = choose.randint(0, len(other))
        return data[:at] + other[cut:]

    def _change_number(self, data: bytes) -> bytes:
        spans = [i for i, byte in enumerate(data) if 48 <= byte < 58]
        if not spans:
            return data
        at = self.random.choice(spans)
        end = at
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        return data[:at] + self.random.choice(_NUMBERS) + data[end:]


_NUMBERS = (
    b"0", b"1", b"-1", b"2", b"7", b"255", b"256", b"65536", b"2147483648", b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"1e400", b"-0", b"1.5",
    b"1" * 40, b"00",
)  # fmt: skip


def resident_mib() -> float:
    """The memory of this process; 0 where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Alarm(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Summary:
    """How a run went."""

    runs: int
    seconds: float
    outcomes: dict[str, int]
    resident_before: float  # MiB, after the first tenth of the runs
    resident_after: float

    def __str__(self) -> str:
        outcomes = ", ".join(f"{key}: {count:,}" for key, count in sorted(self.outcomes.items()))
        return (
            f"{self.runs:,} inputs in {self.seconds:.0f} s; memory {self.resident_before:.1f} -> "
            f"{self.resident_after:.1f} MiB; {outcomes}"
        )


class Found(AssertionError):
    """An input that shows a fault."""

    def __init__(self, data: bytes, seed: int, run: int, cause: BaseException) -> None:
        shown = repr(data[:1000]) + ("…" if len(data) > 1000 else "")
        super().__init__(f"{type(cause).__name__}: {cause}\nat input {run} of --seed {seed}: {shown}")


def command_line(run: Callable[[int, int, float], Summary]) -> None:
    """`--runs N --seed N`: the long run. Prints how far it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"--runs {arguments.runs} --seed {arguments.seed}", flush=True)
    print(run(arguments.runs, arguments.seed, 60.0), flush=True)
