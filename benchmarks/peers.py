"""The servers to compare with, each in a virtual environment of its own below `.peers/`.

    python benchmarks/peers.py [NAME ...]    # set up these (default: all); done already is nothing to do

Packages come from wherever `pip` is configured to look, and nothing else is fetched.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent.resolve()
PROJECT = HERE.parent
PEERS = HERE / ".peers"
SERVED = HERE / "served"
DEBIAN = "apt-get install wrk nghttp2-client nginx-light"


class Unavailable(Exception):
    """A side that cannot run here, and why: it is left out, not an error."""


@dataclass(frozen=True)
class Peer:
    name: str
    steps: tuple[tuple[str, ...], ...]
    """Arguments of one `pip install` after another."""

    @property
    def home(self) -> Path:
        return PEERS / self.name

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    @functools.cached_property
    def _recipe(self) -> str:
        return json.dumps({"python": sys.version, "home": str(self.home), "steps": self.steps})

    def ensure(self) -> None:
        """Install unless what is there was made by this very recipe."""
        done = self.home / "recipe.json"
        if done.is_file() and done.read_text() == self._recipe:
            return
        print(f"setting up {self.name} in {self.home} ...", file=sys.stderr, flush=True)
        shutil.rmtree(self.home, ignore_errors=True)
        self._run(sys.executable, "-m", "venv", str(self.home))
        for step in self.steps:
            self._run(str(self.python), "-m", "pip", "install", "--quiet", *step)
        done.write_text(self._recipe)

    def _run(self, *command: str) -> None:
        try:
            subprocess.run(command, check=True, timeout=900, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except subprocess.CalledProcessError as error:
            text = error.stdout.decode(errors="replace").strip()
            raise Unavailable(f"{' '.join(command[1:])} failed: {text[-400:]}") from error
        except (subprocess.TimeoutExpired, OSError) as error:
            raise Unavailable(f"{' '.join(command[1:])} failed: {error}") from error


def _editable(*runtimes: str) -> tuple[str, ...]:
    """Arguments that install the project and some of its runtimes from here."""
    folders = (PROJECT, *(PROJECT / "runtimes" / name for name in runtimes))
    return tuple(argument for folder in folders for argument in ("--editable", str(folder)))


ALL = {
    peer.name: peer
    for peer in (
        # As a user installs it: the project's own development environment holds more than a server needs.
        Peer("ours", (_editable("sklearn"),)),
        Peer("ours-trees", (_editable("xgboost", "lightgbm", "catboost"),)),
        Peer(
            "mlserver-trees",
            (
                (
                    "mlserver==1.7.1",
                    "mlserver-xgboost==1.7.1",
                    "mlserver-lightgbm==1.7.1",
                    "mlserver-catboost==1.7.1",
                    "uvloop<0.22",
                ),
            ),
        ),
        # With uvloop 0.22 and later its worker processes do not start.
        Peer("mlserver", (("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"),)),
        # The wheel carries Triton 2.51.0. Its Python client is not needed; its python backend, compiled
        # against numpy 1, reads arrays of numpy 2 wrongly.
        Peer("triton", (("--no-deps", "nvidia-pytriton==0.7.0"), ("numpy<2", "scikit-learn"))),
        Peer("mosec", (("mosec==0.9.8", "scikit-learn"),)),
        Peer("litserve", (("litserve==0.2.19", "scikit-learn"),)),
    )
}


def main(names: list[str]) -> int:
    if unknown := set(names) - set(ALL):
        print(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(ALL)}", file=sys.stderr)
        return 2
    missing = 0
    for name in names or list(ALL):
        try:
            ALL[name].ensure()
            print(f"{name}: ready")
        except Unavailable as error:
            print(f"{name}: left out, {error}")
            missing += 1
    for tool in ("wrk", "h2load", "nginx"):
        if shutil.which(tool, path=SEARCH) is None:
            print(f"{tool}: missing, {DEBIAN}")
            missing += 1
    return 1 if missing else 0


SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
