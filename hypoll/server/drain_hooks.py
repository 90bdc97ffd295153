"""The application's `on_drain` hooks: what it is to do when its server begins to go away."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from hypoll.contracts import Application
from hypoll.protocol.messages import FAILURES
from hypoll.web.results import ends_task

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge

log = logging.getLogger("hypoll.error")


class DrainHooks:
    """Runs the hooks of one application. running: how many async ones are under way."""

    def __init__(self, application: Application, asyncio_bridge: AsyncioBridge | None) -> None:
        self._application = application
        self._asyncio_bridge = asyncio_bridge
        self.running = 0

    def run(self, context: Context) -> None:
        """Call each hook once, in a copy of the context; what a hook raises is logged."""
        for hook in self._application.drain_hooks:
            try:
                result = context.copy().run(hook)
                if isinstance(result, Coroutine):
                    self._begin(hook, result)
            except KeyboardInterrupt:  # a signal's: it means the process
                raise
            except FAILURES:
                log.exception("the on_drain hook %r failed", hook)

    def _begin(self, hook: object, coroutine: Coroutine[Any, Any, Any]) -> None:
        if self._asyncio_bridge is None:
            coroutine.close()
            raise RuntimeError("an async hook needs a server that runs on asyncio")
        self.running += 1
        self._asyncio_bridge.start(self._complete(hook, coroutine))

    async def _complete(self, hook: object, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except KeyboardInterrupt:
            raise
        except FAILURES as error:
            if ends_task(error):
                raise
            log.exception("the on_drain hook %r failed", hook)
        finally:
            self.running -= 1
