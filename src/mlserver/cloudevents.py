"""CloudEvents headers that go with every inference, as Seldon's event tooling expects them."""

from __future__ import annotations

import enum
from pathlib import Path

__all__ = [
    "CLOUDEVENTS_HEADERS",
    "CLOUDEVENTS_HEADER_ENDPOINT",
    "CLOUDEVENTS_HEADER_ID",
    "CLOUDEVENTS_HEADER_INFERENCE_SERVICE",
    "CLOUDEVENTS_HEADER_MODEL_ID",
    "CLOUDEVENTS_HEADER_NAMESPACE",
    "CLOUDEVENTS_HEADER_REQUEST_ID",
    "CLOUDEVENTS_HEADER_SOURCE",
    "CLOUDEVENTS_HEADER_SPECVERSION",
    "CLOUDEVENTS_HEADER_SPECVERSION_DEFAULT",
    "CLOUDEVENTS_HEADER_TYPE",
    "CloudEventsTypes",
    "model_headers",
]

CLOUDEVENTS_HEADER_ID = "Ce-Id"
CLOUDEVENTS_HEADER_SPECVERSION = "Ce-Specversion"
CLOUDEVENTS_HEADER_SOURCE = "Ce-Source"
CLOUDEVENTS_HEADER_TYPE = "Ce-Type"
CLOUDEVENTS_HEADER_SPECVERSION_DEFAULT = "0.3"
CLOUDEVENTS_HEADER_REQUEST_ID = "Ce-Requestid"
CLOUDEVENTS_HEADER_MODEL_ID = "Ce-Modelid"
CLOUDEVENTS_HEADER_INFERENCE_SERVICE = "Ce-Inferenceservicename"
CLOUDEVENTS_HEADER_NAMESPACE = "Ce-Namespace"
CLOUDEVENTS_HEADER_ENDPOINT = "Ce-Endpoint"

CLOUDEVENTS_HEADERS = frozenset(
    (
        CLOUDEVENTS_HEADER_ID,
        CLOUDEVENTS_HEADER_SPECVERSION,
        CLOUDEVENTS_HEADER_SOURCE,
        CLOUDEVENTS_HEADER_TYPE,
        CLOUDEVENTS_HEADER_REQUEST_ID,
        CLOUDEVENTS_HEADER_MODEL_ID,
        CLOUDEVENTS_HEADER_INFERENCE_SERVICE,
        CLOUDEVENTS_HEADER_NAMESPACE,
        CLOUDEVENTS_HEADER_ENDPOINT,
    )
)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class CloudEventsTypes(enum.Enum):
    Request = "io.seldon.serving.inference.request"
    Response = "io.seldon.serving.inference.response"


def kubernetes_namespace(path: Path = _NAMESPACE_FILE) -> str | None:
    """The namespace that this pod runs in, or None outside Kubernetes."""
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def model_headers(
    event: CloudEventsTypes, server_name: str, model_name: str, namespace: str | None
) -> dict[str, str]:
    """The headers that are the same for every inference of a model; the two that hold the request's id are
    not among them.
    """
    headers = {
        CLOUDEVENTS_HEADER_SPECVERSION: CLOUDEVENTS_HEADER_SPECVERSION_DEFAULT,
        CLOUDEVENTS_HEADER_SOURCE: f"io.seldon.serving.deployment.{server_name}"
        + (f".{namespace}" if namespace else ""),
        CLOUDEVENTS_HEADER_TYPE: event.value,
        CLOUDEVENTS_HEADER_MODEL_ID: model_name,
        CLOUDEVENTS_HEADER_INFERENCE_SERVICE: server_name,
        CLOUDEVENTS_HEADER_ENDPOINT: model_name,
    }
    if namespace:
        headers[CLOUDEVENTS_HEADER_NAMESPACE] = namespace
    return headers
