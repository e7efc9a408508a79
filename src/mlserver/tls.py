"""TLS, for all ports from one set of files, which may change while the server runs.

An event loop is given its context once, when it begins to listen. Ours has no certificate: it passes each
new connection on to the context that was made last, the only thing that a loop asks of it. Contexts are never
changed. When the files change, new ones are made and checked beside those in use; so a broken file spoils
nothing, an authority that was taken out of the file is trusted no longer, and sessions cannot be resumed
across the change. Connections that exist keep the context that they began with.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlserver.errors import StartError
from mlserver.logging import logger

if TYPE_CHECKING:
    from mlserver.settings import Settings

__all__ = ["Tls", "listen_options", "taken_by_client"]

# What is offered by ALPN on each port.
_PROTOCOLS = {"http": ["http/1.1"], "grpc": ["h2"], "metrics": ["http/1.1"]}
# Seconds between two looks at the files. They have changed once two looks in a row see the same new state.
_LOOK_EVERY = 1.0
# How a connection ends is watched by the sweeps of the servers, which know whether its client still reads.
_NO_SHUTDOWN_TIMEOUT = 86_400.0

Stamp = tuple[tuple[int, int, int] | None, ...]


class _Newest(ssl.SSLContext):
    """Hands each new connection to the newest context."""

    newest: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self.newest.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class Tls:
    """The contexts of the ports that speak TLS. Raises StartError when settings or files cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._certificate = settings.tls_certificate or ""
        self._key = settings.tls_private_key or ""
        self._client_ca = settings.tls_client_ca or ""
        password = settings.tls_private_key_password
        self._password = password.get_secret_value() if password is not None else ""
        self._password_asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._contexts: dict[str, _Newest] = {}
        if not self._certificate:
            self._check_unused()
            return
        if not self._key:
            raise StartError("tls_certificate is set, tls_private_key is not: TLS needs both")
        self._seen = self._tried = self._stamp()
        made = {port: self._make_context(_PROTOCOLS[port]) for port in settings.tls_ports}
        for port, context in made.items():
            self._contexts[port] = _Newest(ssl.PROTOCOL_TLS_SERVER)
            self._contexts[port].newest = context

    def _check_unused(self) -> None:
        given = {"tls_private_key": self._key, "tls_client_ca": self._client_ca}
        for name, value in given.items():
            if value:
                raise StartError(f"{name} is set, tls_certificate is not: without it there is no TLS")

    def context(self, port: str) -> ssl.SSLContext | None:
        """What "http", "grpc" or "metrics" listens with; None in clear."""
        return self._contexts.get(port)

    def scheme(self, port: str) -> str:
        return "https" if port in self._contexts else "http"

    # Files

    def _make_context(self, protocols: list[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(protocols)
        _check_certificates("tls_certificate", self._certificate)
        _check_readable("tls_private_key", self._key)
        self._password_asked = False
        try:
            # Always with a function: without one, OpenSSL asks for a password on the terminal.
            context.load_cert_chain(self._certificate, self._key, self._give_password)
        except ssl.SSLError as exc:
            raise StartError(self._describe(exc)) from exc
        except OSError as exc:
            raise StartError(f"tls_certificate, tls_private_key: {exc.strerror or exc}") from exc
        if self._client_ca:
            _check_certificates("tls_client_ca", self._client_ca)
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            # What stands in the file is trusted, be it an intermediate authority.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def _give_password(self) -> str:
        self._password_asked = True
        if not self._password:
            raise StartError(
                f"tls_private_key: {self._key} is encrypted, and tls_private_key_password is not set"
            )
        return self._password

    def _describe(self, exc: ssl.SSLError) -> str:
        reason = exc.reason or ""
        if reason == "KEY_VALUES_MISMATCH":
            return f"tls_private_key: {self._key} is not the key of the certificate {self._certificate}"
        if self._password_asked:
            return f"tls_private_key_password: it does not open {self._key}"
        if reason.startswith(("EE_", "CA_")):
            words = reason.replace("_", " ").lower()
            return f"tls_certificate: {self._certificate} is too weak to be used ({words})"
        return f"tls_private_key: {self._key} holds no private key in PEM format that can be used"

    # Changes

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the files from now on, until `close`."""
        if self._contexts:
            self._timer = loop.call_later(_LOOK_EVERY, self._look, loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_LOOK_EVERY, self._look, loop)
        stamp, before = self._stamp(), self._seen
        self._seen = stamp
        if stamp == before and stamp != self._tried:
            self._tried = stamp
            self._reload()

    def _reload(self) -> None:
        try:
            made = {port: self._make_context(_PROTOCOLS[port]) for port in self._contexts}
        except (StartError, OSError, ssl.SSLError) as exc:
            logger.error("TLS: the new files cannot be used, the former certificate stays: %s", exc)
            return
        for port, context in made.items():
            self._contexts[port].newest = context
        logger.info("TLS: new connections get the certificate that %s holds now", self._certificate)

    def _stamp(self) -> Stamp:
        """What tells one state of the files from another. Kubernetes swaps a link: another inode."""
        return tuple(map(_stamp_of, filter(None, (self._certificate, self._key, self._client_ca))))


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _check_readable(setting: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise StartError(f"{setting}: {path}: {exc.strerror}") from exc


def _check_certificates(setting: str, path: str) -> None:
    _check_readable(setting, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (OSError, ssl.SSLError) as exc:
        raise StartError(f"{setting}: {path} holds no certificate in PEM format") from exc


# Listening


def listen_options(context: ssl.SSLContext | None, handshake_timeout: float) -> Mapping[str, Any]:
    """Further arguments of `loop.create_server`. handshake_timeout: seconds."""
    if context is None:
        return {}
    options = {"ssl": context, "ssl_handshake_timeout": handshake_timeout}
    # asyncio waits for the end of a TLS connection since 3.11; uvloop always did.
    if sys.version_info >= (3, 11) or type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        options["ssl_shutdown_timeout"] = _NO_SHUTDOWN_TIMEOUT
    return options


# Where Linux' struct tcp_info has packets under way, bytes that were acknowledged, bytes not yet sent.
_UNACKED, _BYTES_ACKED, _NOT_SENT = struct.Struct("=24xI"), struct.Struct("=120xQ"), struct.Struct("=144xI")
_TCP_INFO = 148


def taken_by_client(transport: asyncio.Transport) -> int:
    """0 if the client has taken all that was sent to it; else a number that changes as long as it takes more.

    Under TLS a transport counts what it has yet to encrypt, not what its socket has yet to take. Linux knows;
    elsewhere there is only the former.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and sys.platform == "linux":
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)
        except OSError:  # it is gone
            return 0
        if len(info) == _TCP_INFO and (_UNACKED.unpack_from(info)[0] or _NOT_SENT.unpack_from(info)[0]):
            return int(_BYTES_ACKED.unpack_from(info)[0])
    return transport.get_write_buffer_size()
