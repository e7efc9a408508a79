"""When a connection is read: at once, unless much is certain to come and does come quickly."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from mlserver.grpc.lowwater import LowWater

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel has to support it")


class Transport:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def is_closing(self) -> bool:
        return self.connection is not None and self.connection.fileno() < 0

    def get_extra_info(self, name: str) -> Any:
        return self.connection


@pytest.fixture
def connection() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            yield accepted


def level(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_it_follows_what_is_missing(connection: socket.socket) -> None:
    async def follow() -> list[int]:
        low, transport, levels = LowWater(), Transport(connection), []
        for missing in (10, 4_000_000, 1_000_000, 100_000, 10_000, 0):
            low.expect(missing, transport)  # type: ignore[arg-type]
            levels.append(level(connection))
        return levels

    assert asyncio.run(follow()) == [1, 262_144, 262_144, 100_000, 1, 1]


def test_a_slow_client_is_read_as_it_sends_until_its_message_is_complete(connection: socket.socket) -> None:
    async def dawdle() -> None:
        low, transport = LowWater(), Transport(connection)

        def expect(missing: int) -> int:
            low.expect(missing, transport)  # type: ignore[arg-type]
            return level(connection)

        assert expect(4_000_000) > 1
        await asyncio.sleep(0.1)
        assert level(connection) == 1
        assert expect(3_900_000) == 1
        assert expect(0) == 1
        assert expect(4_000_000) > 1
        for missing in range(3_900_000, 3_000_000, -100_000):  # others keep their level
            await asyncio.sleep(0.003)
            expect(missing)
        assert low._slow is False or level(connection) == 1

    asyncio.run(dawdle())


@pytest.mark.parametrize("gone", ["closed", "unknown", "no TCP"])
def test_a_socket_that_cannot_be_asked_is_left_alone(gone: str, connection: socket.socket) -> None:
    class Refuses:
        def fileno(self) -> int:
            return 3

        def setsockopt(self, *_: Any) -> None:
            raise OSError("not supported")

    async def expect() -> None:
        if gone == "closed":
            connection.close()
        transport = Transport({"closed": connection, "unknown": None, "no TCP": Refuses()}[gone])
        low = LowWater()
        low.expect(4_000_000, transport)  # type: ignore[arg-type]
        assert low._level == 1

    asyncio.run(expect())
