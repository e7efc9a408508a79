"""The front's side of one worker process: start it, talk to it, notice its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlserver.audit.policy import TRUST_SETTINGS
from mlserver.logging import logger
from mlserver.metrics import process_stopped
from mlserver.parallel.arena import Arena, Mapping
from mlserver.parallel.channel import Channel, Kind, Reader
from mlserver.parallel.errors import WorkerStop
from mlserver.parallel.launch import Link, launch

if TYPE_CHECKING:
    from mlserver.env import Environment
    from mlserver.parallel.template import Template
    from mlserver.settings import Settings

__all__ = ["SHARED_SETTINGS", "Worker"]

# Settings of the server that matter in a worker.
SHARED_SETTINGS = {
    *("debug", "logging_settings", "use_structured_logging"),
    *("metrics_dir", "metrics_endpoint", "parallel_workers"),
    *TRUST_SETTINGS,
}
# Seconds that a process whose socket has closed gets to be gone.
_LAST_BREATH = 1.0


class Worker:
    """A worker process, from its start to its end; another one takes its place then.

    on_frame: gets what it says of batches, streams and models. on_end: called once, with this and the exit
    code as `subprocess` gives it: negative for a signal.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        variables: dict[str, str],
        on_frame: Callable[[Kind, list[Any], Reader], None],
        on_end: Callable[[Worker, int], None],
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._variables = variables
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.pid = 0
        self._arena: Arena | None = None
        self.channel: Channel | None = None
        self.ended: asyncio.Future[int] = self._loop.create_future()

    async def start(self, preload: Sequence[dict[str, Any]] = (), template: Template | None = None) -> None:
        """Start the process, or have it forked from a template, and configure it.

        preload: settings of models whose classes it is to import at once.

        Raises WorkerStop when it ends at once, OSError when it cannot start.
        """
        link = await self._begin(template)
        if link.failure is not None:
            text = "No memory can be shared with workers, large tensors go through sockets: %s"
            logger.warning(text, link.failure)
        try:
            arena = Arena(link.requests) if link.requests >= 0 else None
            mapping = Mapping(link.replies) if link.replies >= 0 else None
        except BaseException:
            link.close()
            raise
        if mapping is not None:
            os.close(link.replies)
        self._arena = arena
        link.socket.setblocking(False)
        channel = self.channel = Channel(arena, mapping, self._on_frame, self._lost)
        await self._loop.create_connection(lambda: channel, sock=link.socket)
        settings = self._settings.model_dump(mode="json", include=SHARED_SETTINGS)
        await self.ask("configure", settings, self._environment.path, list(preload))

    async def _begin(self, template: Template | None) -> Link:
        if template is not None:
            link = Link()
            if link.failure is None:
                try:
                    self.pid, end = await template.fork(link.theirs)
                except BaseException:
                    link.close()
                    raise
                link.close_theirs()
                end.add_done_callback(lambda end: self._over(end.result()))
                return link
            link.close()
        # No wait for it, and on this thread: a worker ends when the thread that started it does.
        process, link = launch(self._environment.python, {**self._environment.variables, **self._variables})
        self.pid = process.pid
        name = f"worker-{process.pid}"
        threading.Thread(target=self._wait, args=(process,), name=name, daemon=True).start()
        return link

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Raises what the worker's code raised, or WorkerStop when it ends instead of answering."""
        if self.channel is None or self.ended.done():
            raise WorkerStop(self.ended.result() if self.ended.done() else -1)
        return await self.channel.ask(what, *arguments)

    def kill(self) -> None:
        if self.pid and not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def discard(self) -> None:
        """End it without a word."""
        self.kill()
        if self.channel is not None:
            self.channel.close()

    async def stop(self, timeout: float) -> None:
        """Let it unload its models and end, for `timeout` seconds at most."""
        try:
            await asyncio.wait_for(self.ask("stop"), timeout)
            if self.channel is not None:
                self.channel.close()
            await asyncio.wait_for(asyncio.shield(self.ended), timeout)
        except (asyncio.TimeoutError, WorkerStop):
            if not self.ended.done():
                logger.warning("Worker %d did not end within %g s and is killed", self.pid, timeout)
                self.kill()
        if self.pid:
            await self.ended

    def _lost(self) -> None:
        """Its socket closed. A process that lives on without one is of no use."""
        self._loop.call_later(_LAST_BREATH, self.kill)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        try:
            self._loop.call_soon_threadsafe(self._over, code)
        except RuntimeError:
            pass  # the loop ended before it

    def _over(self, code: int) -> None:
        process_stopped(self.pid)
        self.ended.set_result(code)
        if self.channel is not None:
            self.channel.fail_asked(WorkerStop(code))
            self.channel.detach()
            self.channel = None
        if self._arena is not None:
            self._arena.close()
        self._on_end(self, code)
