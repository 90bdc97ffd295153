"""What the parts of hypoll agree on: what an application is, what a connection may be doing, why it ends, and what a
server counts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum, StrEnum
from typing import Any, NamedTuple, Protocol

from hypoll.http import State
from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.protocol.refusals import too_slow


class RunOn(Enum):
    """Where a handler runs."""

    LOOP = "inline"
    THREAD = "threaded"
    TASK = "async"


class EarlyAnswer(Protocol):
    """What a threaded handler may do before it has come to its end. On its thread."""

    def send(self, answer: Response) -> None:
        """Send an answer that is whole."""

    def start_stream(self, response: Response) -> Any:
        """Send the head of a response; give the `ThreadStream` that takes its body. Raises `HTTPError` 503."""


class HandlerCall:
    """How an answer is made that isn't made on the loop: what an application gives for a request that must wait.

    Args:
        run_on: `RunOn.THREAD`: `call` may block, and gives a result. `RunOn.TASK`: it gives a coroutine of one.
        call: to the async `call(request, in_thread)`, where `await in_thread(function)` gives what a blocking function
            returns; to the threaded `call(request, early)`, see `EarlyAnswer`. The latter may give None when it
            has sent the answer itself.
        to_answer: makes the answer of the result. What it or the call raises, if it is of `FAILURES`, goes to
            `answer_error`.
        answer_error: `answer_error(request, error)` makes the answer of an exception.
        stream: whether the handler begins when the head is whole, and takes the body from `request.stream`.
        body_run_on: the handler's own kind, where that is another than its hooks'; bodies, both ways, are of this kind.
        direct: the same as `call`, of the request alone, for one without parameters: spares the hot path a call. A dict
            from it is sent as JSON, and goes to `to_answer` only where orjson doesn't take it.
        name: of the handler, for the task that it runs in: asyncio's own names, one for each, cost 0.2 µs.
        exchange, plain_exchange: the kinds of `hypoll.server.exchange.Exchange` and `PlainExchange` that run it, made
            without arguments; None: those.

    Attributes:
        begins_in_task: whether it is a task, and nothing is to be done before that begins.
    """

    __slots__ = (
        "answer_error",
        "begins_in_task",
        "body_run_on",
        "call",
        "direct",
        "exchange",
        "name",
        "plain_exchange",
        "run_on",
        "stream",
        "to_answer",
    )

    def __init__(
        self,
        run_on: RunOn,
        call: Callable[[Request, Any], Any],
        to_answer: Callable[[Any], Response | bytes],
        answer_error: Callable[[Request, BaseException], Response],
        stream: bool = False,
        body_run_on: RunOn | None = None,
        direct: Callable[[Request], Any] | None = None,
        name: str = "hypoll",
        exchange: Callable[[], Any] | None = None,
        plain_exchange: Callable[[], Any] | None = None,
    ) -> None:
        self.run_on = run_on
        self.begins_in_task = run_on is RunOn.TASK and not stream
        self.exchange = exchange
        self.plain_exchange = plain_exchange
        self.name = name
        self.direct = direct
        self.body_run_on = run_on if body_run_on is None else body_run_on
        self.call = call
        self.to_answer = to_answer
        self.answer_error = answer_error
        self.stream = stream


class PeriodicWork(NamedTuple):
    """Something to do again and again while a server serves.

    Attributes:
        seconds: from the beginning of one run to that of the next.
        function: called without arguments.
        is_async: whether it is an `async def`.
        place: its name, with file and line.
    """

    seconds: float
    function: Callable[[], Any]
    is_async: bool
    place: str


RunToCompletion = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""

Answer = Response | bytes | HandlerCall
"""What an application answers. bytes: of JSON, whose head the server makes."""

RequestHandler = Callable[[Request], Answer]
"""What makes the answer of a request."""


class Application:
    """What answers requests. `Routes`, WSGI applications and the server's own endpoints are such; `answer` is all that
    one must have.
    """

    @property
    def uses_asyncio(self) -> bool:
        """Whether asyncio is needed."""
        return False

    @property
    def uses_threads(self) -> bool:
        """Whether any of its code runs on the pool's threads."""
        return True

    @property
    def keeps_tasks(self) -> bool:
        """Whether tasks that it has begun itself go on until its shutdown has run. Else they are cancelled before."""
        return False

    @property
    def ready_checks(self) -> Sequence[Callable[[], Any]]:
        """What is asked whether requests are wanted."""
        return ()

    @property
    def drain_hooks(self) -> Sequence[Callable[[], Any]]:
        """What is called when the server begins to go away."""
        return ()

    @property
    def periodic(self) -> Sequence[PeriodicWork]:
        """What is done again and again between startup and shutdown."""
        return ()

    def answer(self, request: Request) -> Response | bytes | HandlerCall:
        """Answer a request. bytes: of JSON, whose head the server makes. `HandlerCall`: that isn't made on the loop."""
        raise NotImplementedError

    def early_refusal(self, request: Request) -> HTTPError | None:
        """Give the refusal of a request whose head alone is known, if it has one."""
        return None

    def amend_refusal(self, request: Request, response: Response) -> Response:
        """Give what becomes of an answer that the server makes by itself: a refusal, or a failure."""
        return response

    @property
    def least_max_body(self) -> int | None:
        """The smallest of the limits that `max_body_of` gives; None: it gives none."""
        return None

    def max_body_of(self, request: Request) -> int | None:
        """Bytes that the body of a request, whose head alone is known, may have; None: as the settings say."""
        return None

    def wants_stream(self, request: Request) -> bool:
        """Whether its handler takes the body as it comes."""
        return False

    def wants_spool(self, request: Request) -> bool:
        """Whether its body is to be received into a spool before it is answered."""
        return False

    def pattern(self, request: Request) -> str | None:
        """The path of its route as it was declared, for logs and metrics; None: there is none."""
        return None

    def check(self) -> None:
        """See that it can be served: before it is, and when somebody only asks. Raises `ValueError`."""

    def startup(self, complete: RunToCompletion) -> None:
        """Run once before the first connection is accepted."""

    def shutdown(self, complete: RunToCompletion) -> None:
        """Run once after the last connection is closed."""


def as_application(application: Application | Callable[[Request], Any]) -> Application:
    """The application that something is, or that a callable is made into with what it has of an application's names.

    The one place that looks for those.
    """
    if isinstance(application, Application):
        return application
    found = {
        name: getattr(application, name) for name in vars(Application) if name[0] != "_" and hasattr(application, name)
    }
    methods = {name: staticmethod(one) if callable(one) else one for name, one in found.items()}
    made: Application = type("Adapted", (Application,), {"answer": staticmethod(application), **methods})()
    return made


# connections

NEVER = float("inf")
"""The deadline of what has none."""

LINGER_SILENCE = 5.0
"""Seconds that a refused peer, whose input is read away, may pause."""


class ConnectionState(Enum):
    """What a connection is doing. Of each: whether it takes input, whether a request is under way, and its deadline,
    as the setting that holds its seconds, with the refusal when they have passed. None: the connection is closed then,
    or it has no deadline by a setting.

    Attributes:
        HANDSHAKE: TLS is being agreed upon. A plain connection begins in NEW.
        SKIPPING: the rest of a body comes whose handler has answered without reading it.
        WAITING: a handler is at work on a thread or in a task, for as long as it likes.
        LINGERING: what the peer still sends is read away, so that it can read the answer.
        UPGRADED: another protocol than HTTP is spoken: see `Upgrade`.
    """

    HANDSHAKE = 0, True, False, "header_timeout"
    NEW = 1, True, False, "keep_alive"
    IDLE = 2, True, False, "keep_alive"
    HEAD = 3, True, True, "header_timeout", HTTPError(408, "the request head took too long")
    BODY = 4, True, True, "body_timeout", too_slow()
    SKIPPING = 5, True, True, "body_timeout"
    WAITING = 6, False, True
    SENDING = 7, False, True, "write_timeout"
    FINISHING = 8, False, True, "write_timeout"
    LINGERING = 9, False, False
    CLOSED = 10, False, False
    UPGRADED = 11, False, True

    def __init__(
        self, number: int, takes_input: bool, busy: bool, setting: str | None = None, refusal: HTTPError | None = None
    ) -> None:
        self.takes_input = takes_input
        self.busy = busy
        self.setting = setting
        self.refusal = refusal


class Upgrade:
    """What a connection is handed to by an answer 101: all that comes from there on is its.

    It has the connection's socket, writer and deadline until it gives it back, or the connection is closed. All of this
    is called on the loop's thread.
    """

    __slots__ = ()

    def begin(self, data: bytes) -> None:
        """Take the connection. data: what came behind the request's head."""

    def on_events(self, events: int) -> None:
        """Take an edge; 0: it is its turn, which it has asked for by `Connection.reschedule`."""

    def on_deadline(self) -> None:
        """The connection's deadline has passed."""

    def extend_deadline(self, seconds: float) -> None:
        """Let the peer have so many seconds more, in which the server didn't run. The deadline itself has them."""

    def on_drain(self) -> None:
        """The server begins to go away."""

    def on_close(self) -> None:
        """The connection is closed."""


STATE_OF_PARSER = {
    State.START: ConnectionState.IDLE,
    State.BLANK: ConnectionState.IDLE,
    State.HEAD: ConnectionState.HEAD,
    State.BODY: ConnectionState.BODY,
    State.DONE: ConnectionState.IDLE,
}
"""The state for what the parser is in the middle of."""


class CloseReason(StrEnum):
    """Why a connection ended; `KEPT`: it goes on."""

    KEPT = ""
    CLIENT = "client"
    """The client asked for it, speaks HTTP/1.0, or closed an idle connection."""
    APPLICATION = "application"
    """The response has `Connection: close`, or its end is marked by the connection's."""
    DRAIN = "drain"
    REFUSED = "refused"
    """The request, or the connection, was refused."""
    TIMEOUT = "timeout"
    """A state's deadline passed."""
    ABORTED = "aborted"
    """The client left in the middle of a request or an answer."""
    FAILED = "failed"
    """The answer could not be finished: its body failed, or the server did."""


class Timeout(StrEnum):
    """Whose deadline passed."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    WRITE = "write"
    LINGER = "linger"
    WEBSOCKET = "websocket"
    """A WebSocket's peer has answered neither a ping nor a close frame."""


class Gauges(NamedTuple):
    """What there is at the moment.

    Attributes:
        connections: how many are open, by the name of their state.
        queue: calls that wait for a thread of the pool.
        threads: those that are busy.
        streams: those that have left the pool, since they wait for a client or stream for long.
        spool_memory, spool_disk: bytes that wait in the spools.
        overdue: threads at work for requests that were answered without them.
    """

    connections: Mapping[str, int]
    queue: int = 0
    threads: int = 0
    streams: int = 0
    spool_memory: int = 0
    spool_disk: int = 0
    overdue: int = 0
