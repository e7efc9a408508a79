"""The Python environment that a worker runs in: this one, a folder, or a packed one that is unpacked here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlserver.audit.files import sha256_of
from mlserver.audit.policy import ENVIRONMENT, PACKAGES, check_environment
from mlserver.errors import MLServerError
from mlserver.logging import logger
from mlserver.parallel.launch import own_variables
from mlserver.utils import to_absolute_path

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings, Settings

__all__ = [
    "REQUIREMENTS",
    "Environment",
    "compute_hash_of_file",
    "compute_hash_of_string",
    "environment_of",
    "own_environment",
    "read_requirements",
]


@dataclass(frozen=True)
class Environment:
    """key: tells environments apart, None for the one that this process runs in. path: what `sys.path` of a
    worker begins with. temporary: a folder to remove with the last worker that uses it.
    """

    python: str
    key: str | None = None
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    temporary: str | None = None

    def remove(self) -> None:
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


def own_environment() -> Environment:
    # What this process can import, its workers can.
    path = [entry or os.getcwd() for entry in sys.path]
    return Environment(sys.executable, None, path, own_variables())


def environment_of(settings: ModelSettings, server: Settings) -> Environment:
    """Where the settings of a model want it to run. Unpacks what is packed, once, so it may take its time.

    Raises MLServerError naming what cannot be used.
    """
    parameters = settings.parameters
    if parameters is not None and parameters.environment_path:
        path = os.path.abspath(os.path.expandvars(os.path.expanduser(parameters.environment_path)))
        check_environment(settings, path, ENVIRONMENT)
        return _in_folder(settings, path, compute_hash_of_string(path))
    if parameters is not None and parameters.environment_tarball:
        tarball = to_absolute_path(settings, parameters.environment_tarball)
        if not os.path.isfile(tarball):
            raise MLServerError(
                f"Model '{settings.name}': there is no `environment_tarball` at {tarball}", 422
            )
        check_environment(settings, tarball, ENVIRONMENT)
        key = compute_hash_of_file(tarball)
        folder = os.path.join(os.path.abspath(server.environments_dir), key)
        _unpack(settings, tarball, folder)
        return _in_folder(settings, folder, key, temporary=folder)
    if parameters is not None and parameters.build_environment:
        return _built(settings, server)
    return own_environment()


# Files beside a model that say what it needs, the first of them that is there.
REQUIREMENTS = ("requirements.txt", "python_env.yaml", "conda.yaml", "conda.yml", "environment.yml")


def _built(settings: ModelSettings, server: Settings) -> Environment:
    """An environment with what the model needs, made once; what it does not name is taken from this one."""
    folder = os.path.dirname(os.path.abspath(settings._source)) if settings._source else os.getcwd()
    uri = settings.parameters.uri if settings.parameters is not None else None
    artefact = to_absolute_path(settings, uri) if uri else folder
    candidates = [os.path.join(place, name) for place in (folder, artefact) for name in REQUIREMENTS]
    found = next((path for path in candidates if os.path.isfile(path)), None)
    if found is None:
        text = f"`build_environment` needs one of {', '.join(REQUIREMENTS)} in {folder}"
        raise MLServerError(f"Model '{settings.name}': {text}", 422)
    check_environment(settings, found, PACKAGES)
    python, requirements = read_requirements(found)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is not None and not f"{python}.".startswith(f"{own}."):
        text = f"{found} asks for Python {python}, the server runs on {own}: give it an `environment_path`"
        raise MLServerError(f"Model '{settings.name}': {text}", 422)
    key = compute_hash_of_string("\n".join([sys.version, *requirements]))
    built = os.path.join(os.path.abspath(server.environments_dir), key)
    if not os.path.isdir(built):
        _build(settings, built, requirements)
    # Unlike an unpacked one it is worth keeping: the next start finds it.
    return _in_folder(settings, built, key)


def read_requirements(path: str) -> tuple[str | None, list[str]]:
    """The version of Python that a file asks for, if any, and what pip is to install, a line each."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".txt"):
        lines = (line.partition(" #")[0].strip() for line in text.splitlines())
        return None, [line for line in lines if line and not line.startswith("#")]
    try:
        import yaml
    except ImportError as exc:
        raise MLServerError(f"PyYAML is needed to read {path}: pip install pyyaml", 422) from exc
    content = yaml.safe_load(text) or {}
    python: str | None = None
    requirements: list[str] = []
    if "python" in content:  # MLflow's python_env.yaml
        python = str(content["python"])
    for entry in content.get("dependencies", ()):
        if isinstance(entry, dict):
            requirements += entry.get("pip", ())
        elif match := re.fullmatch(r"python\s*=*\s*([\d.]*)", str(entry)):
            python = match[1] or None
        elif not re.match(r"pip\b", str(entry)):
            # conda writes `name=1.2=build`, and a plain `=` for what pip calls `==`.
            name, *version = re.split(r"(?<![<>=!~])=(?!=)", str(entry))
            requirements.append(f"{name}=={version[0]}" if version else name)
    # In python_env.yaml a dependency may be the name of a file beside it.
    resolved: list[str] = []
    for requirement in requirements:
        if requirement.startswith("-r "):
            resolved += read_requirements(os.path.join(os.path.dirname(path), requirement[3:].strip()))[1]
        else:
            resolved.append(requirement)
    return python, resolved


def _build(settings: ModelSettings, folder: str, requirements: list[str]) -> None:
    import venv

    logger.info("Model '%s': building an environment for %s", settings.name, ", ".join(requirements))
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    # Under its name it is there as a whole. Only its scripts mind the move, and nobody runs them.
    unfinished = f"{folder}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        venv.create(unfinished, with_pip=False, symlinks=True)
        python = os.path.join(unfinished, "bin", "python")
        packages = sysconfig.get_path("purelib", vars={"base": unfinished, "platbase": unfinished})
        if requirements:
            command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *requirements]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
                text = f"Model '{settings.name}': its environment cannot be built: {last[0]}"
                raise MLServerError(text, 422)
        with open(os.path.join(packages, "server.pth"), "w", encoding="utf-8") as file:
            file.write(
                "\n".join(entry for entry in sys.path if os.path.isabs(entry) and os.path.isdir(entry))
            )
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _in_folder(settings: ModelSettings, folder: str, key: str, temporary: str | None = None) -> Environment:
    python = os.path.join(folder, "bin", "python")
    if not os.path.isfile(python):
        raise MLServerError(f"Model '{settings.name}': the environment {folder} has no bin/python", 422)
    variables = own_variables()
    variables["PATH"] = os.pathsep.join([os.path.join(folder, "bin"), variables.get("PATH", "")])
    variables["VIRTUAL_ENV"] = folder
    # These would lead its interpreter to the packages of this one.
    for name in ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"):
        variables.pop(name, None)
    # FOLDER and `.`, which the command line put first, and which its models may import from.
    return Environment(python, key, _own_folders(), variables, temporary)


def _own_folders() -> list[str]:
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    folders = []
    for entry in sys.path:
        path = os.path.abspath(entry or ".")
        installed = f"{os.sep}site-packages" in path or f"{os.sep}dist-packages" in path
        holds_this_package = os.path.isfile(os.path.join(path, "mlserver", "__init__.py"))
        inside = os.path.realpath(path).startswith(library)
        if os.path.isdir(path) and not installed and not inside and not holds_this_package:
            folders.append(path)
    return folders


def compute_hash_of_string(text: str) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def compute_hash_of_file(path: str) -> str:
    """SHA-256 of the content, in hexadecimal."""
    with open(path, "rb") as file:
        return sha256_of(file)


def _unpack(settings: ModelSettings, tarball: str, folder: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    logger.info("Model '%s': unpacking %s", settings.name, tarball)
    # Beside its place first: what is there is there as a whole.
    with tempfile.TemporaryDirectory(dir=parent) as unpacked:
        try:
            with tarfile.open(tarball) as archive:
                _extract(archive, unpacked)
        except (tarfile.TarError, OSError) as exc:
            text = f"Model '{settings.name}': `environment_tarball` {tarball} cannot be unpacked: {exc}"
            raise MLServerError(text, 422) from exc
        try:
            os.rename(unpacked, folder)
        except OSError:
            if not os.path.isdir(folder):  # somebody else was quicker, else
                raise
        else:
            os.mkdir(unpacked)  # for the context manager to remove


def _extract(archive: tarfile.TarFile, folder: str) -> None:
    if hasattr(tarfile, "tar_filter"):
        # Links to an interpreter outside are part of what tools pack; paths that leave the folder are not.
        archive.extraction_filter = staticmethod(tarfile.tar_filter)
    archive.extractall(folder)
