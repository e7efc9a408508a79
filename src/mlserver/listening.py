"""Opening a port, the same for every transport."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable

from mlserver.errors import StartError
from mlserver.tls import listen_options

__all__ = ["listen"]


async def listen(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    what: str,
    exit_code: int,
    tls: ssl.SSLContext | None,
    handshake_timeout: float,
) -> tuple[asyncio.Server, int]:
    """Listen; returns the server and its port. what: whose port it is, for errors.

    Raises StartError naming the port when it is taken, to end the process with `exit_code`.
    """
    options = listen_options(tls, handshake_timeout)
    try:
        server = await asyncio.get_running_loop().create_server(
            make_protocol, host, port, backlog=2048, reuse_address=True, **options
        )
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE or "address already in use" in str(exc):
            raise StartError(f"{what} port {port} is in use on {host}", exit_code=exit_code) from exc
        text = f"cannot listen on {host}:{port} for {what}: {exc}"
        raise StartError(text, exit_code=exit_code) from exc
    return server, int(server.sockets[0].getsockname()[1])
