"""What can be wrong with the settings of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable

from mlserver.errors import MLServerError

__all__ = [
    "InvalidHuggingFaceSettings",
    "InvalidModelParameter",
    "InvalidModelParameterType",
    "InvalidOptimumTask",
    "InvalidTransformersTask",
    "MissingHuggingFaceSettings",
    "OptimumNotInstalled",
]


class MissingHuggingFaceSettings(MLServerError):
    """Neither `parameters.extra` nor the environment say what to serve."""

    def __init__(self) -> None:
        super().__init__("Missing HuggingFace Runtime settings: `parameters.extra` is null", 400)


class InvalidHuggingFaceSettings(MLServerError):
    """A setting has a value that cannot be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Invalid HuggingFace Runtime settings: {reason}", 400)


class InvalidTransformersTask(MLServerError):
    """There is no pipeline for the task."""

    def __init__(self, task: str, available: Iterable[str]) -> None:
        known = ", ".join(sorted(available))
        super().__init__(f"Invalid transformer task: '{task}'. Available tasks: {known}", 400)


class InvalidOptimumTask(MLServerError):
    """Optimum has no ONNX pipeline for the task."""

    def __init__(self, task: str, available: Iterable[str]) -> None:
        known = ", ".join(sorted(available))
        super().__init__(f"Invalid optimum task: '{task}'. Supported Optimum tasks: {known}", 400)


class OptimumNotInstalled(MLServerError):
    """`optimum_model` was asked for, but its packages are missing."""

    def __init__(self, reason: str) -> None:
        needs = "`optimum_model` needs the packages of `pip install mlserver-huggingface[optimum]`"
        super().__init__(f"{needs}: {reason}", 500)


class InvalidModelParameter(MLServerError):
    """A value of PREDICTIVE_UNIT_PARAMETERS is not of the type that it claims."""

    def __init__(self, name: str, value: str, param_type: str) -> None:
        super().__init__(
            f"Bad model parameter: {name} with value {value} can't be parsed as a {param_type}", 400
        )


class InvalidModelParameterType(MLServerError):
    """PREDICTIVE_UNIT_PARAMETERS names a type that there is not."""

    def __init__(self, param_type: str) -> None:
        super().__init__(
            f"Bad model parameter type: {param_type}; valid are INT, FLOAT, DOUBLE, STRING and BOOL", 400
        )
