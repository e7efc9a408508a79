"""Opening a port, the same for every transport."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from typing import Any

from mlserver.errors import StartError
from mlserver.tls import listen_options

__all__ = ["check_free", "listen"]


async def listen(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    what: str,
    tls: ssl.SSLContext | None,
    handshake_timeout: float,
) -> tuple[asyncio.Server, int]:
    """Listen; returns the server and its port. what: `HTTP`, `gRPC` or `metrics`, for errors.

    Raises StartError naming the port when it is taken.
    """
    options = listen_options(tls, handshake_timeout)
    server = await _create(make_protocol, host, port, what, backlog=2048, **options)
    return server, int(server.sockets[0].getsockname()[1])


async def check_free(host: str, port: int, what: str) -> None:
    """Raises what `listen` would, before anything is done that takes longer."""
    (await _create(asyncio.Protocol, host, port, what, start_serving=False)).close()


async def _create(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    what: str,
    **options: Any,
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(make_protocol, host, port, reuse_address=True, **options)
    except OSError as exc:
        exit_code = 3 if what in ("HTTP", "metrics") else 1
        if exc.errno == errno.EADDRINUSE or "address already in use" in str(exc):
            raise StartError(f"{what} port {port} is in use on {host}", exit_code=exit_code) from exc
        text = f"cannot listen on {host}:{port} for {what}: {exc}"
        raise StartError(text, exit_code=exit_code) from exc
