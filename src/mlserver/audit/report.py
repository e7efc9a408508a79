"""What the models below a folder would run when they are loaded, without importing or unpickling anything."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, field
from typing import Any

from mlserver.audit import files, policy
from mlserver.audit.files import File
from mlserver.audit.pickles import HARMLESS, is_dangerous
from mlserver.env import REQUIREMENTS
from mlserver.errors import StartError
from mlserver.repository import SchemalessModelRepository
from mlserver.repository.load import load_model_settings
from mlserver.repository.schemaless import DEFAULT_MODEL_SETTINGS_FILENAME, find_settings_files
from mlserver.settings import ModelSettings, Settings, describe_invalid
from mlserver.utils import to_absolute_path

__all__ = ["Report", "audit", "grouped"]

_SETTINGS = "settings.json"


@dataclass(slots=True)
class Report:
    """One model. origin: the folder or package of its class. loads: every file that loading may read or run.

    refusals: why it would not be loaded under `refuse`. refused: whether it is, as the settings are now.
    """

    name: str
    version: str | None
    source: str | None
    implementation: str
    origin: str
    remote_code: bool = False
    loads: list[File] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    refused: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "settings": self.source,
            "implementation": self.implementation,
            "origin": self.origin,
            "trust_remote_code": self.remote_code,
            "files": [
                {
                    "path": file.path,
                    "format": file.format,
                    "sha256": file.sha256,
                    "runs_code": file.runs_code,
                    "undecided": file.undecided,
                    "imports": grouped(file.names),
                }
                for file in self.loads
            ],
            "environment": self.environment,
            "refusals": self.refusals,
            "refused_now": self.refused,
        }


def grouped(names: list[str]) -> dict[str, list[str]]:
    """Names by what is known of them."""
    groups: dict[str, list[str]] = {"harmless": [], "dangerous": [], "other": []}
    for name in names:
        group = "harmless" if name in HARMLESS else "dangerous" if is_dangerous(name) else "other"
        groups[group].append(name)
    return groups


def audit(folder: str) -> tuple[list[Report], list[str]]:
    """A report of every model below a folder, and what is wrong with settings files that cannot be read.

    Raises StartError when there is no such folder, or its `settings.json` cannot be used.
    """
    if not os.path.isdir(folder):
        raise StartError(f"'{folder}' is no folder")
    server = _server_settings(folder)
    models, broken = [], []
    for path in find_settings_files(os.path.abspath(folder)):
        try:
            models.append(load_model_settings(path))
        except Exception as exc:
            broken.append(f"{path}: {describe_invalid(exc)}")
    if not models and not broken:
        models = SchemalessModelRepository(folder).described_by_environment()
    return [_report(model, server, os.path.abspath(folder)) for model in models], broken


def _server_settings(folder: str) -> Settings:
    """The settings of the server that serves a folder, but for the class of its repository, which is code."""
    path = os.path.join(folder, _SETTINGS)
    values: Any = {}
    try:
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig") as file:
                values = json.load(file)
        # Given by keyword, nothing is imported for it, wherever else it is named.
        return Settings(**{**values, "model_repository_implementation": None})
    except (OSError, ValueError, TypeError) as exc:
        raise StartError(describe_invalid(exc, path if values else None)) from exc


def _report(model: ModelSettings, server: Settings, folder: str) -> Report:
    code = policy.code_files(model, model.implementation_, (folder, os.getcwd()))
    report = Report(
        model.name,
        model.version,
        model._source,
        model.implementation_,
        os.path.dirname(code[0]) if code else _installed(model.implementation_),
        _trusts_remote_code(model),
    )
    strict = Settings.model_construct(**{**server.__dict__, "unsafe_artefacts": "refuse"})
    now = policy.policy_of(model, server)
    asked = policy.policy_of(model.model_copy(update={"unsafe_artefacts": "refuse"}), strict)
    found: dict[str, File] = {}
    paths = [(path, True) for path in code]
    places = _places(model)
    for place in places:
        if os.path.exists(place):
            paths += policy.artefact_files(place, code=report.remote_code)
        else:
            report.refusals.append(f"{place} is not on this machine, so what it runs cannot be told")
            report.refused |= now.mode == "refuse" or bool(now.pins)
    alone = {place for place in places if os.path.isfile(place)}
    for path, is_code in paths:
        if os.path.basename(path) in (_SETTINGS, DEFAULT_MODEL_SETTINGS_FILENAME) or path in found:
            continue
        try:
            found[path] = files.inspect_code(path) if is_code else files.inspect(path)
            found[path].is_model |= path in alone
        except OSError as exc:
            report.refusals.append(f"{path} cannot be read: {exc.strerror or exc}")
    _environment(model, report, found)
    for file in found.values():
        reason = asked.mismatch(file) or asked.refusal(file)
        if reason is not None:
            report.refusals.append(reason)
            report.refused |= now.mode == "refuse" or now.mismatch(file) is not None
    report.loads = [file for file in found.values() if file.runs_code or file.is_model]
    return report


def _installed(implementation: str) -> str:
    top = implementation.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return "not found"
    places = list(spec.submodule_search_locations or ()) or [spec.origin or "built in"]
    return f"installed: {places[0]}"


def _extra(model: ModelSettings) -> dict[str, Any]:
    """What the Hugging Face runtime would be told, from wherever it comes."""
    options: dict[str, Any] = {}
    for name in ("model_kwargs", "pretrained_model", "pretrained_tokenizer"):
        text = os.environ.get(f"MLSERVER_MODEL_HUGGINGFACE_{name.upper()}")
        if text:
            options[name] = _parsed(text)
    options.update((model.parameters.extra if model.parameters is not None else None) or {})
    given = _parsed(os.environ.get("PREDICTIVE_UNIT_PARAMETERS", "[]"))
    for entry in given if isinstance(given, list) else []:
        if isinstance(entry, dict) and "name" in entry:
            options[str(entry["name"])] = _parsed(str(entry.get("value")))
    return options


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _of_huggingface(model: ModelSettings) -> bool:
    return "huggingface" in model.implementation_.lower()


def _trusts_remote_code(model: ModelSettings) -> bool:
    options = _extra(model)
    inner = options.get("model_kwargs")
    return isinstance(inner, dict) and bool(inner.get("trust_remote_code"))


def _places(model: ModelSettings) -> list[str]:
    """Paths, or names elsewhere, that the artefacts are read from."""
    places = []
    uri = model.parameters.uri if model.parameters is not None else None
    if _of_huggingface(model):
        options = _extra(model)
        pretrained = options.get("pretrained_model")
        places = [str(place) for place in (pretrained, options.get("pretrained_tokenizer")) if place]
        if pretrained:
            return places
    if uri:
        path = uri.removeprefix("file://")
        places.append(path if "://" in path else to_absolute_path(model, path))
    return places


def _environment(model: ModelSettings, report: Report, found: dict[str, File]) -> None:
    """What the worker of a model would be made of."""
    parameters = model.parameters
    if parameters is None:
        return
    if parameters.environment_path:
        report.environment.append(f"runs in {parameters.environment_path}")
    elif parameters.environment_tarball:
        path = to_absolute_path(model, parameters.environment_tarball)
        report.environment.append(f"unpacks {path}")
        if os.path.isfile(path):
            found[path] = files.inspect_code(path, policy.ENVIRONMENT)
    elif parameters.build_environment:
        for folder in [os.path.dirname(model._source or ""), *_places(model)]:
            for path in (os.path.join(folder, name) for name in REQUIREMENTS):
                if os.path.isfile(path):
                    report.environment.append(f"installs what {path} lists")
                    found[path] = files.inspect_code(path, policy.PACKAGES)
                    return
