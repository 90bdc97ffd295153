"""The application that every server under test serves. It imports the standard library alone.

What it does for a request is a script, which comes with the request in the field X-Script: a list of operations, as a
Python literal (`script.py` has the words for them). The application reports what it sees through a Unix socket, a
literal a line: (token of the case, name, value). The suite opens gates over the same socket: (token, gate).
"""

from __future__ import annotations

import ast
import asyncio
import contextvars
import os
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

CONTROL = "CONFORMANCE_CONTROL"
"""Names the environment variable with the path of the suite's socket."""

LIFESPAN = "CONFORMANCE_LIFESPAN"
"""Names the environment variable that says what the application does with the lifespan protocol."""

FAILURE = "conformance-failure"
STARTUP_FAILURE = "the database of the conformance suite is away"

QUIET = 0.15
"""Seconds after which what didn't happen counts as not happening: no event reports that nothing comes."""

PATIENCE = 20.0
"""Seconds after which a call that the suite has given up ends by itself, so that it doesn't disturb later cases."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def plain(value: Any) -> Any:
    """Make a literal of a value: what isn't of exactly these types, nor a mapping, is given by its type's name."""
    kind = type(value)
    if kind in (str, bytes, int, float, bool, type(None)):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind([plain(item) for item in value])
    return f"<{kind.__module__}.{kind.__qualname__}>"


def is_dict(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def names_of(error: BaseException) -> list[str]:
    """The names of an exception's class and of those it derives from."""
    return [kind.__name__ for kind in type(error).__mro__]


class Control:
    """The connection to the suite, one a process."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(os.environ[CONTROL])
        self._lock = threading.Lock()
        self._opened: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def tell(self, token: str, name: str, value: Any = None) -> None:
        line = ascii((token, name, plain(value))).encode() + b"\n"
        with self._lock:
            self._sock.sendall(line)

    def _read(self) -> None:
        for line in self._sock.makefile("rb"):
            key = ast.literal_eval(line.decode())
            with self._lock:
                self._opened.add(key)
                loop, event = self._waiting.pop(key, (None, None))
            if loop is not None and event is not None:
                loop.call_soon_threadsafe(event.set)

    async def wait(self, token: str, gate: str) -> None:
        """Wait until the suite opens the gate."""
        event = asyncio.Event()
        with self._lock:
            if (token, gate) in self._opened:
                self._opened.discard((token, gate))
                return
            self._waiting[token, gate] = asyncio.get_running_loop(), event
        async with asyncio.timeout(PATIENCE):
            await event.wait()
        self._opened.discard((token, gate))


_controls: dict[int, Control] = {}


def control() -> Control:
    """The connection of this process: a fork makes its own."""
    if os.getpid() not in _controls:
        _controls[os.getpid()] = Control()
    return _controls[os.getpid()]


class Process:
    """What the calls of one process share."""

    started = False
    loop: asyncio.AbstractEventLoop | None = None
    left_behind: ClassVar[set[asyncio.Task[None]]] = set()
    tasks: ClassVar[weakref.WeakSet[asyncio.Task[Any]]] = weakref.WeakSet()


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Call:
    """One call of the application for a request: it runs the request's script."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        fields = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        self.token = fields.get(b"x-token", b"").decode()
        self.script: list[Any] = ast.literal_eval(fields.get(b"x-script", DEFAULT).decode())
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.sent = 0

    def tell(self, name: str, value: Any = None) -> None:
        control().tell(self.token, name, value)

    async def run(self) -> None:
        self.tell("scope", self.describe_scope())
        try:
            for name, *arguments in self.script:
                await getattr(self, "do_" + name)(*arguments)
        except BaseException as error:
            self.tell("ended", names_of(error))
            raise
        else:
            self.tell("ended")
        finally:
            for task in self.tasks.values():
                task.cancel()

    def describe_scope(self) -> dict[str, Any]:
        """The scope as a literal. What may be any iterable is made a list or tuple."""
        scope = dict(self.scope)
        scope["headers"] = [tuple(field) for field in scope["headers"]]
        for name in ("client", "server"):
            if scope.get(name) is not None:
                scope[name] = tuple(scope[name])
        scope["<dict>"] = isinstance(self.scope, dict)
        scope["<not dicts>"] = [name for name in ("asgi", "extensions", "state") if not is_dict(scope.get(name))]
        scope["<started>"] = Process.started
        described = plain(scope)
        assert isinstance(described, dict)
        return described

    # receiving

    async def receive_one(self) -> Message:
        """Receive as a coroutine, which may become a task, whatever kind of awaitable the server's own is."""
        return await self.receive()

    async def do_receive(self) -> None:
        self.tell("receive", await self.receive())

    async def do_read(self) -> None:
        """Receive until the body is whole, or doesn't become so."""
        pieces = []
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                self.tell("broken", message["type"])
                return
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        self.tell("body", b"".join(pieces))
        self.tell("pieces", len(pieces))

    async def do_read_size(self) -> None:
        """Receive the whole body, and tell of its size alone."""
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                self.tell("broken", message["type"])
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.tell("size", size)

    async def do_until_disconnect(self) -> None:
        while (message := await self.receive())["type"] != "http.disconnect":
            pass
        self.tell("receive", message)

    async def do_begin_receive(self) -> None:
        """Receive in a task of its own."""
        self.tasks["receive"] = asyncio.create_task(self.receive_one())
        await asyncio.sleep(0)

    async def do_is_waiting(self) -> None:
        """Tell whether the task still receives, after a while."""
        await asyncio.wait(self.tasks.values(), timeout=QUIET)
        self.tell("waiting", not self.tasks["receive"].done())

    async def do_end_receive(self) -> None:
        self.tell("receive", await self.tasks["receive"])

    async def do_cancel_receive(self) -> None:
        task = self.tasks.pop("receive")
        task.cancel()
        await asyncio.wait([task])
        self.tell("cancelled", task.cancelled())

    async def do_receive_twice(self) -> None:
        """Receive in two tasks at once."""
        for message in await asyncio.gather(self.receive_one(), self.receive_one()):
            self.tell("receive", message)

    async def do_receive_for(self, seconds: float) -> None:
        try:
            self.tell("receive", await asyncio.wait_for(self.receive_one(), seconds))
        except TimeoutError:
            self.tell("timeout")

    async def do_receive_by_task(self) -> None:
        self.tell("receive", await asyncio.create_task(self.receive()))  # type: ignore[arg-type]

    # sending

    async def do_send(self, message: Message) -> None:
        await self.send(message)

    async def do_attempt(self, message: Message) -> None:
        """Send, and tell what it raised."""
        try:
            await self.send(message)
        except Exception as error:
            self.tell("attempt", names_of(error))
        else:
            self.tell("attempt")

    async def do_attempt_later(self, gate: str, message: Message) -> None:
        """Send from a task that outlives this call."""

        async def later() -> None:
            await self.do_wait(gate)
            await self.do_attempt(message)

        task = asyncio.create_task(later())
        Process.left_behind.add(task)
        task.add_done_callback(Process.left_behind.discard)

    async def do_send_by_task(self, message: Message) -> None:
        await asyncio.create_task(self.send(message))  # type: ignore[arg-type]

    async def do_send_iterator(self, message: Message) -> None:
        await self.send({**message, "headers": iter(message["headers"])})

    async def do_fill(self, size: int, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": b"x" * size, "more_body": more})

    async def do_flood(self, size: int, count: int) -> None:
        """Send pieces in a task of its own, until nothing moves any more; tell how much was taken."""

        async def flood() -> None:
            for _ in range(count):
                await self.do_fill(size, True)
                self.sent += size
                await asyncio.sleep(0)

        task = self.tasks["flood"] = asyncio.create_task(flood())
        before = -1
        while before != self.sent and not task.done():
            before = self.sent
            await asyncio.wait([task], timeout=2 * QUIET)
        self.tell("stalled", self.sent)

    async def do_end_flood(self) -> None:
        await asyncio.wait([self.tasks["flood"]])
        error = self.tasks.pop("flood").exception()
        self.tell("flood", None if error is None else names_of(error))

    async def do_send_until_error(self) -> None:
        """Send until it raises, which leaves the application; not forever."""
        async with asyncio.timeout(PATIENCE):
            while True:
                await self.do_fill(1024, True)
                await asyncio.sleep(0.01)

    async def do_stream_quietly(self) -> None:
        """Wait for events that never come, as frameworks do: for the client's going, too, until sends raise (2.4)."""
        version = self.scope["asgi"].get("spec_version", "2.0")
        events: asyncio.Queue[bytes] = asyncio.Queue()
        if tuple(map(int, version.split("."))) >= (2, 4):
            await asyncio.wait_for(events.get(), PATIENCE)
        else:
            await self.do_until_disconnect()

    async def do_sendfile(self, path: str, message: Message) -> None:
        with open(path, "rb") as file:
            await self.send({"type": "http.response.zerocopysend", "file": file, **message})

    # the rest

    async def do_wait(self, gate: str) -> None:
        await control().wait(self.token, gate)

    async def do_pause(self) -> None:
        """Give a signal that was sent before the time to arrive."""
        await asyncio.sleep(2 * QUIET)

    async def do_tell(self, name: str) -> None:
        self.tell(name)

    async def do_fail(self) -> None:
        raise RuntimeError(FAILURE)

    async def do_cancel(self) -> None:
        raise asyncio.CancelledError

    async def do_touch_state(self) -> None:
        """Put a key into this request's copy, and something into a list that all share."""
        state = self.scope["state"]
        state["own"] = True
        state["shared"].append(self.token)

    async def do_touch_scope(self) -> None:
        self.scope["touched"] = True
        self.scope["path"] = "/touched"

    async def do_context(self) -> None:
        """Tell what is in the variable, then put something into it."""
        self.tell("variable", variable.get())
        variable.set(self.token)

    async def do_task(self) -> None:
        """Tell whether there is a current task, and whether it is new."""
        task = asyncio.current_task()
        self.tell("task", task is not None)
        if task is not None:
            self.tell("new", task not in Process.tasks)
            Process.tasks.add(task)

    async def do_same_task(self, message: Message) -> None:
        task = asyncio.current_task()
        await self.send(message)
        await asyncio.sleep(0)
        self.tell("same", task is not None and asyncio.current_task() is task)

    async def do_timeout(self) -> None:
        try:
            async with asyncio.timeout(0.02):
                await asyncio.sleep(PATIENCE)
        except TimeoutError:
            self.tell("timeout")

    async def do_timeout_receive(self) -> None:
        try:
            async with asyncio.timeout(0.05):
                while True:
                    await self.receive()
        except TimeoutError:
            self.tell("timeout")

    async def do_group(self) -> None:
        """A child fails: its sibling is cancelled, the group raises."""
        ended = []

        async def wait() -> None:
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                ended.append("cancelled")

        async def fail() -> None:
            await asyncio.sleep(0)
            raise ValueError

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait())
                group.create_task(fail())
        except* ValueError:
            ended.append("raised")
        self.tell("group", ended)

    async def do_thread(self) -> None:
        self.tell("thread", await asyncio.to_thread(lambda: threading.current_thread() is not threading.main_thread()))

    async def do_where(self) -> None:
        self.tell("main thread", threading.current_thread() is threading.main_thread())
        self.tell("loop of lifespan", asyncio.get_running_loop() is Process.loop)


DEFAULT = ascii(
    [
        ("read",),
        ("send", {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}),
        ("send", {"type": "http.response.body", "body": b"hello"}),
    ]
).encode()


async def lifespan(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Take part in the lifespan protocol, well or badly."""
    kind = os.environ.get(LIFESPAN, "complete")

    def tell(name: str, value: Any = None) -> None:
        control().tell("lifespan", name, value)

    tell("lifespan", {key: plain(value) for key, value in scope.items()})
    if kind == "raise":
        raise RuntimeError("no lifespan")
    if kind == "return":
        return
    tell("startup", await receive())
    if kind == "raise-on-startup":
        raise RuntimeError("no lifespan")
    if kind == "failed":
        await send({"type": "lifespan.startup.failed", "message": STARTUP_FAILURE})
        return
    if kind == "slow":
        await control().wait("lifespan", "startup")
    Process.started = True
    Process.loop = asyncio.get_running_loop()
    if "state" in scope:
        scope["state"].update(number=7, shared=[])
    await send({"type": "lifespan.startup.complete"})
    tell("shutdown", await receive())
    if kind == "shutdown-slow":
        await asyncio.sleep(2 * QUIET)
    tell("completing")
    if kind == "shutdown-failed":
        await send({"type": "lifespan.shutdown.failed", "message": STARTUP_FAILURE})
    else:
        await send({"type": "lifespan.shutdown.complete"})


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Run the request's script."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await Call(scope, receive, send).run()
    else:
        raise ValueError(f"{scope['type']} is not served")
