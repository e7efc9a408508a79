"""What `parameters.extra` may say about a session, and how ONNX Runtime is told."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
import onnxruntime as ort

from mlserver import ModelSettings
from mlserver.artefact import options_of
from mlserver.errors import MLServerError

__all__ = ["Options", "options_of_session"]

Threads = Annotated[int, msgspec.Meta(ge=0)]
Provider = str | tuple[str, dict[str, str | int | float | bool]]

_MODES = {
    "sequential": ort.ExecutionMode.ORT_SEQUENTIAL,
    "parallel": ort.ExecutionMode.ORT_PARALLEL,
}
_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# Others have to be asked for: they compile for minutes, or need a service.
_DEFAULT_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class Options(msgspec.Struct, kw_only=True):
    """See docs/runtimes/onnx.md. Zero threads are as many as ONNX Runtime takes."""

    providers: list[Provider] | None = None
    intra_op_num_threads: Threads | None = None
    inter_op_num_threads: Threads | None = None
    execution_mode: Literal["sequential", "parallel"] = "sequential"
    graph_optimization_level: Literal["disable", "basic", "extended", "all"] = "all"
    session_config: dict[str, str] = {}
    rows_independent: bool | None = None

    @classmethod
    def of(cls, settings: ModelSettings) -> Options:
        """The options of a model. Raises MLServerError (422) for what is unknown here, or not installed."""
        options = options_of(settings, cls)
        available = ort.get_available_providers()
        for provider in options.providers or []:
            name = provider if isinstance(provider, str) else provider[0]
            if name not in available:
                raise MLServerError(
                    f"Model {settings.name}: parameters.extra.providers: '{name}' is not available, "
                    f"but {', '.join(available)} are",
                    422,
                )
        if options.providers == []:
            raise MLServerError(f"Model {settings.name}: parameters.extra.providers: names none", 422)
        return options

    def chosen_providers(self) -> list[Any]:
        """Execution providers, the preferred one first."""
        if self.providers is not None:
            return list(self.providers)
        return [name for name in _DEFAULT_PROVIDERS if name in ort.get_available_providers()]


def options_of_session(options: Options, folder: str) -> ort.SessionOptions:
    """What a session is made with. folder: where weights lie that are kept outside of the graph's file."""
    session = ort.SessionOptions()
    # The server divides the processors among its workers, and says so in this variable.
    share = os.environ.get("OMP_NUM_THREADS", "")
    default = int(share) if share.isdecimal() else 0
    session.intra_op_num_threads = (
        default if options.intra_op_num_threads is None else options.intra_op_num_threads
    )
    session.inter_op_num_threads = options.inter_op_num_threads or 0
    session.execution_mode = _MODES[options.execution_mode]
    session.graph_optimization_level = _LEVELS[options.graph_optimization_level]
    session.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    for key, value in options.session_config.items():
        session.add_session_config_entry(key, value)
    return session
