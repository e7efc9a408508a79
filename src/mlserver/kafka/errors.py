"""What can be wrong with a Kafka message."""

from __future__ import annotations

from mlserver.errors import MLServerError

__all__ = ["InvalidMessageHeaders"]


class InvalidMessageHeaders(MLServerError):
    """The message does not say which model it is for."""

    def __init__(self, missing_header: str) -> None:
        super().__init__(
            f"Invalid Kafka message. Expected '{missing_header}' header not found in message.", 422
        )
