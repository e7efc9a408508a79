"""Installs the clients that are no packages of the system, each in a place of its own below `.prepared`.

    python -m tests.clients.prepare [NAME ...]

What cannot be installed is said, and its tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.clients.serving import PREPARED, ROOT

# The first release with a wheel for each Python.
OLDEST = {10: "1.49.1", 11: "1.49.1", 12: "1.59.3", 13: "1.66.2"}
_SUITE = ("grpcio", "grpcio-tools", "grpcio-health-checking", "grpcio-reflection")


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def environment(folder: Path, *requirements: str) -> None:
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--prefer-binary", *requirements)


def oldest_grpcio(folder: Path) -> None:
    version = OLDEST[sys.version_info.minor]
    # grpcio-tools of that time look for their files by pkg_resources, which setuptools has no more.
    environment(folder, *(f"{name}=={version}" for name in _SUITE), "setuptools<80")


def perf_analyzer(folder: Path) -> None:
    """The program is in one wheel, a library that it is linked to in another."""
    folder.mkdir(parents=True)
    options = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder)
    run(sys.executable, *options, "tritonclient==2.41.0", "nvidia-cuda-runtime-cu12")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(("/bin/perf_analyzer", "/libcudart.so.12")):
                    (folder / Path(name).name).write_bytes(archive.read(name))
        wheel.unlink()
    (folder / "perf_analyzer").chmod(0o755)


def node(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise FileNotFoundError("npm is not installed: apt-get install nodejs npm")
    folder.mkdir(parents=True)
    run("npm", "install", "--silent", "--prefix", folder, "@grpc/grpc-js", "@grpc/proto-loader")


CLIENTS: dict[str, Callable[[Path], None]] = {
    "grpcio-newest": lambda folder: environment(folder, *_SUITE),
    "grpcio-oldest": oldest_grpcio,
    # The oldest that the extra `grpc` of this project allows, with its own stubs.
    "stubs": lambda folder: environment(folder, f"{ROOT}[grpc]", "grpcio==1.60.*"),
    "kserve": lambda folder: environment(folder, "kserve"),
    "tritonclient": lambda folder: environment(folder, "tritonclient[grpc]"),
    "perf_analyzer": perf_analyzer,
    "node": node,
}


def main() -> None:
    for name in sys.argv[1:] or CLIENTS:
        folder = PREPARED / name
        if folder.exists():
            continue
        print(f"{name} ...", flush=True)
        try:
            CLIENTS[name](folder)
        except (subprocess.CalledProcessError, OSError, KeyError) as exc:
            print(f"{name} cannot be installed: {exc}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
