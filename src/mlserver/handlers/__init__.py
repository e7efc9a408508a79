"""Handlers that runtimes bring along."""

from mlserver.handlers.custom import CustomHandler, custom_handler, get_custom_handlers

__all__ = ["CustomHandler", "custom_handler", "get_custom_handlers"]
