"""Where a pipeline finds the models that it calls, where these are no hosts of their own names."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["ENDPOINT", "V2Runtime"]

# The variable that holds the URL of a model's inference; `{name}` stands for the model's name.
ENDPOINT = "MLSERVER_TEMPO_ENDPOINT"


class V2Runtime:
    """What Tempo asks for a model's address: `DockerOptions(runtime="mlserver_tempo.endpoints.V2Runtime")`.

    By default the models are served by the server that runs the pipeline.
    """

    def __init__(self, runtime_options: Any = None) -> None:
        self._options = runtime_options

    def get_endpoint_spec(self, model_spec: Any) -> str:
        """The URL that requests for a model are posted to."""
        port = os.environ.get("MLSERVER_HTTP_PORT", "8080")
        template = os.environ.get(ENDPOINT, f"http://127.0.0.1:{port}/v2/models/{{name}}/infer")
        return template.replace("{name}", str(model_spec.model_details.name))

    def get_headers(self, model_spec: Any) -> dict[str, str]:
        return {}
