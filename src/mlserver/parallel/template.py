"""Workers that are forked from a process in which their models are loaded already.

The argument is the descriptor of a socket.

What is loaded once and only read is in memory once, however many workers there are. The template has neither
threads nor a running event loop, so that it can be forked at any time; what a model's `load` starts of these
is not there in its copies. That is why it is for those models only whose `load` does no such thing.

It is told what to do in frames over a socket, one at a time; descriptors for the next worker come along.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlserver.logging import logger
from mlserver.parallel.errors import WorkerStop
from mlserver.parallel.launch import end_with_the_front, spawn

if TYPE_CHECKING:
    from mlserver.env import Environment
    from mlserver.model import MLModel

__all__ = ["Template", "main"]

# Bytes of a message; settings of a model are a few hundred.
_LARGEST = 1 << 20
# Seconds between two looks at whether a child has ended.
_LOOKS = 0.05


class Template:
    """The front's side: what it asks of a template process, and what it hears of the workers from it."""

    def __init__(self, environment: Environment, variables: dict[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._lock = asyncio.Lock()
        self._answer: asyncio.Future[Any] | None = None
        self._ends: dict[int, asyncio.Future[int]] = {}
        self.gone = False
        # On this thread: the process ends when the thread that started it does.
        self._process = spawn(
            environment.python,
            "mlserver.parallel.template",
            [theirs.fileno()],
            {**environment.variables, **variables},
        )
        theirs.close()
        threading.Thread(target=self._listen, name="template", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def configure(self, settings: dict[str, Any], path: list[str]) -> None:
        await self._ask(["configure", settings, path])

    async def load(self, model: int, settings: dict[str, Any]) -> None:
        """Load a model for the workers to come. One that cannot be loaded, they will load by themselves."""
        error = await self._ask(["load", model, settings])
        if error is not None:
            logger.debug("a model could not be loaded ahead: %s", error)

    async def fork(self, descriptors: Sequence[int]) -> tuple[int, asyncio.Future[int]]:
        """A worker with what is loaded, that gets these descriptors: its id, and its exit code to come."""
        pid: int = await self._ask(["fork"], descriptors)
        return pid, self._ends.setdefault(pid, self._loop.create_future())

    async def close(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._socket.close()

    async def _ask(self, message: list[Any], descriptors: Sequence[int] = ()) -> Any:
        async with self._lock:
            if self.gone:
                raise WorkerStop(self._process.poll() or 0)
            self._answer = self._loop.create_future()
            data = [msgspec.msgpack.encode(message)]
            if descriptors:
                socket.send_fds(self._socket, data, list(descriptors))
            else:
                self._socket.sendmsg(data)
            return await self._answer

    def _listen(self) -> None:
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except OSError:
                data = b""
            try:
                self._loop.call_soon_threadsafe(self._heard, data)
            except RuntimeError:
                return
            if not data:
                return

    def _heard(self, data: bytes) -> None:
        if not data:
            self.gone = True
            self._settle(WorkerStop(self._process.poll() or 0))
            for end in self._ends.values():
                if not end.done():
                    end.set_result(-signal.SIGKILL)  # its workers end with it
            return
        kind, *values = msgspec.msgpack.decode(data)
        if kind == "ended":
            pid, code = values
            end = self._ends.setdefault(pid, self._loop.create_future())
            if not end.done():
                end.set_result(code)
        else:
            self._settle(values[0])

    def _settle(self, value: Any) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(value, Exception):
            self._answer.set_exception(value)
        else:
            self._answer.set_result(value)


# What follows runs in the template process.


def main() -> None:
    from mlserver.memory import calm_collector, keep_blocks_warm

    calm_collector()
    keep_blocks_warm()
    connection = socket.socket(fileno=int(sys.argv[1]))
    models: dict[int, MLModel] = {}
    children: set[int] = set()
    while True:
        readable, _, _ = select.select([connection], [], [], _LOOKS if children else None)
        for pid, code in _ended(children):
            connection.send(msgspec.msgpack.encode(["ended", pid, code]))
        if not readable:
            continue
        data, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 8)
        if not data:
            return
        what, *arguments = msgspec.msgpack.decode(data)
        answer: Any = None
        if what == "configure":
            from mlserver.parallel.host import configure

            configure(*arguments)
        elif what == "load":
            answer = _load(models, *arguments)
        elif what == "fork":
            answer = _fork(connection, models, descriptors)
            children.add(answer)
            for descriptor in descriptors:
                os.close(descriptor)
        connection.send(msgspec.msgpack.encode(["answer", answer]))


def _ended(children: set[int]) -> list[tuple[int, int]]:
    ended = []
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.discard(pid)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _load(models: dict[int, MLModel], number: int, settings: dict[str, Any]) -> str | None:
    from mlserver.context import model_context
    from mlserver.settings import ModelSettings

    async def load() -> MLModel:
        given = ModelSettings.model_validate(settings)
        with model_context(given):
            model = given.implementation(given)
            model.ready = bool(await model.load())
        return model

    try:
        models[number] = asyncio.run(load())
    except (Exception, SystemExit) as exc:
        return repr(exc)
    return None


def _fork(connection: socket.socket, models: dict[int, MLModel], descriptors: list[int]) -> int:
    from mlserver.memory import freeze_what_stays

    freeze_what_stays()
    pid = os.fork()
    if pid:
        return pid
    from mlserver.parallel.host import work

    connection.close()
    end_with_the_front()
    work(descriptors, models)
    os._exit(0)
