"""The lifespan of an application (ASGI lifespan 2.0): its startup and shutdown, in one task for both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from hypoll.asgi.errors import StartupError
from hypoll.asgi.recognition import ASGIApplication
from hypoll.asgi.scope import ASGI_VERSION

SPEC_VERSION = "2.0"

END_TIME = 0.1
"""Seconds in which the application's call may come to its end when it has said all that it is asked for."""

log = logging.getLogger("hypoll.error")


class Lifespan:
    """The lifespan of one application in one process.

    Args:
        mode: "auto": an exception means that the application has none; "on": it is a failed start; "off": it isn't
            asked.

    Attributes:
        state: what the application puts there for its requests.
    """

    def __init__(self, application: ASGIApplication, mode: str) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._mode = mode
        self._task: asyncio.Task[None] | None = None
        self._asked = False
        self._shutting_down: asyncio.Event | None = None
        self._started: asyncio.Future[str] | None = None
        self._stopped: asyncio.Future[None] | None = None

    async def startup(self) -> None:
        """Have the application start. Raises `StartupError`."""
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._asked = False
        self.state.clear()
        self._shutting_down = asyncio.Event()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._run(), name="lifespan")
        await asyncio.wait((self._task, self._started), return_when=asyncio.FIRST_COMPLETED)
        if self._started.done():
            failure = self._started.result()
            if failure:
                await self._let_end()
                raise StartupError(f"the application failed to start: {failure}")
            return
        task, self._task = self._task, None
        self._judge(task)

    def _judge(self, task: asyncio.Task[None]) -> None:
        """The application's call has ended before its start. Raises `StartupError`, and what means the process."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise error
        if error is None:
            what = "its lifespan ended without lifespan.startup.complete"
        else:
            text = " ".join(str(error).split())
            what = f"its lifespan raised {type(error).__name__}{': ' if text else ''}{text}"
        if self._mode == "on":
            raise StartupError(f"the application failed to start: {what}") from error
        log.info("the application has no lifespan: %s", what)

    async def _let_end(self) -> None:
        """Let the task come to its end, which has nothing more to say."""
        task, self._task = self._task, None
        if task is not None:
            _, pending = await asyncio.wait((task,), timeout=END_TIME)
            if pending:
                task.cancel()
                await asyncio.wait((task,), timeout=END_TIME)

    async def shutdown(self) -> None:
        """Have the application shut down. What goes wrong is logged."""
        task, stopped, event = self._task, self._stopped, self._shutting_down
        if task is None or stopped is None or event is None:
            return
        event.set()
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        await self._let_end()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
            "state": self.state,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            assert self._started is not None
            if not self._started.done():
                raise
            if not self._started.result():  # else it has reported its failure already
                log.error("the application's lifespan failed", exc_info=error)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        assert self._shutting_down is not None
        assert self._stopped is not None
        await self._shutting_down.wait()
        if self._stopped.done():
            await asyncio.get_running_loop().create_future()  # there is nothing more
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        """Take an event. Raises `RuntimeError` for one out of order, `TypeError` for what is none."""
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise TypeError(f"send takes an event, a dict with its type, not {message!r:.60}") from None
        assert self._started is not None
        assert self._stopped is not None
        assert self._shutting_down is not None
        text = str(message.get("message", ""))
        if kind in ("lifespan.startup.complete", "lifespan.startup.failed") and not self._started.done():
            self._started.set_result((text or "it doesn't say why") if kind == "lifespan.startup.failed" else "")
        elif (
            kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed")
            and self._shutting_down.is_set()
            and not self._stopped.done()
        ):
            if kind == "lifespan.shutdown.failed":
                log.error("the application failed to shut down: %s", text or "it doesn't say why")
            self._stopped.set_result(None)
        else:
            raise RuntimeError(f"{kind!r:.60} can't be sent here: it is out of order, or no event of a lifespan")
