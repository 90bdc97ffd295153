"""Runs cases against a server and says what came of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance.asgi import case as words
from tests.conformance.asgi.case import ABSENT, Answer, Case, Check, End, OneOf, Step
from tests.conformance.asgi.client import PATIENCE, Client, Ended, ProtocolError, Response, Silence
from tests.conformance.asgi.peers import Peer
from tests.conformance.asgi.server import Event, Server

PAYLOAD = bytes(range(256)) * 800
"""The content of the file that extensions send: @FILE@ in a case stands for its path."""


class Outcome(Enum):
    PASS = "passes"
    FAIL = "fails"
    SKIP = "skipped"


class Result(NamedTuple):
    """What came of a case; reasons: of a failure, or why it was skipped."""

    case: Case
    outcome: Outcome
    reasons: tuple[str, ...] = ()


class Failure(Exception):  # noqa: N818 - of the server, not of the suite
    """A step can't be taken."""


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 160 else f"{text[:100]} ... {text[-40:]}"


class NotServing(Exception):  # noqa: N818 - a state of the server
    """The server doesn't start, or answers nothing."""


class Dialogue:
    """One case under way: its connection, and what it has received."""

    def __init__(self, case: Case, server: Server) -> None:
        self.case = case
        self.server = server
        self.answered = 0
        self.log_start = 0 if case.lifespan else len(server.log())
        self._client: Client | None = None

    def fill(self, raw: bytes) -> bytes:
        file = str(self.server.directory / "payload").encode()
        return raw.replace(b"@TOKEN@", self.case.name.encode()).replace(b"@FILE@", file)

    @property
    def client(self) -> Client:
        if self._client is None:
            try:
                self._client = self.server.connect()
            except OSError as error:
                raise Failure(f"no connection: {error!r}") from None
        return self._client

    def events(self, name: str, token: str | None = None) -> list[Event]:
        return [event for event in self.server.control.of(token or self.case.name) if event.name == name]

    def wait_told(self, name: str, times: int, token: str | None = None) -> bool:
        return self.server.control.wait_for(lambda: len(self.events(name, token)) >= times)

    def run(self) -> Iterator[str]:
        """Take the steps, read the answers; yield what is wrong."""
        try:
            for step in self.case.steps:
                _TAKE[type(step)](self, step)
        except (Failure, Silence) as failure:
            yield str(failure)
            return
        yield from self.check_answers()
        if self.case.end is not End.ANY:
            yield from self.check_end()
        yield from check_told(self)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    # the steps

    def take_write(self, step: words.Write) -> None:
        self.client.write(self.fill(step.raw))

    def take_bytewise(self, step: words.Bytewise) -> None:
        for byte in self.fill(step.raw):
            self.client.write(bytes([byte]))

    def take_until(self, step: words.Until) -> None:
        if not self.client.until(step.raw):
            raise Failure(f"the connection ended before {step.raw!r} came, after {short(self.client.data)}")

    def take_told(self, step: words.Told) -> None:
        if not self.wait_told(step.name, step.times, step.token):
            told = [event.name for event in self.server.control.of(self.case.name)]
            raise Failure(f"the application didn't get to {step.name!r} ({step.times}), but to {told[-8:]}")

    def take_go(self, step: words.Go) -> None:
        self.server.control.go(step.token or self.case.name, step.gate)

    def take_flood(self, step: words.Flood) -> None:
        sent = self.client.flood(step.size)
        if sent > step.at_most:
            raise Failure(f"the server took {sent} bytes that the application didn't ask for")

    def take_rest(self, step: words.Rest) -> None:
        self.client.write(b"x" * self.client.unsent)

    def take_other(self, step: words.Other) -> None:
        try:
            other = self.server.connect()
            with contextlib.closing(other):
                other.write(self.fill(step.raw))
                response = other.read_response()
        except (OSError, ProtocolError, Ended, Silence) as error:
            raise Failure(f"another connection isn't served: {error!r}") from None
        if response.status != 200:
            raise Failure(f"another connection is answered with {response.status}")

    def take_half_close(self, step: words.HalfClose) -> None:
        self.client.half_close()

    def take_close(self, step: words.Close) -> None:
        self.client.close()

    def take_reset(self, step: words.Reset) -> None:
        self.client.reset()

    def take_term(self, step: words.Term) -> None:
        self.server.term()

    def take_exits(self, step: words.Exits) -> None:
        status = self.server.wait()
        if status is None:
            raise Failure("the server's process doesn't end")
        if step.failed is not None and step.failed != (status != 0):
            raise Failure(f"the server's process ends with {status}")

    # what came of them

    def check_answers(self) -> Iterator[str]:
        for number, expected in enumerate(self.case.answers, 1):
            reasons = list(self.check_answer(expected))
            yield from (f"response {number}: {reason}" for reason in reasons)
            if reasons:
                return

    def check_answer(self, expected: Answer | OneOf) -> Iterator[str]:
        options = expected.answers if isinstance(expected, OneOf) else (expected,)
        try:
            response = self.client.read_response(head=options[0].head)
        except Ended as ended:
            if not (isinstance(expected, OneOf) and expected.or_none):
                yield str(ended)
            return
        except (ProtocolError, Silence) as error:
            yield str(error)
            return
        self.answered += 1
        found = [list(check_response(response, option)) for option in options]
        if all(found):
            yield " / ".join(found[0] if len(found) == 1 else [reasons[0] for reasons in found])

    def check_end(self) -> Iterator[str]:
        if self.case.end is End.CLOSED:
            if not self.client.has_ended():
                yield f"the server doesn't end the connection; {short(self.client.data)} came"
            return
        self.client.write(b"GET /further HTTP/1.1\r\nHost: h\r\nX-Token: further\r\n\r\n")
        try:
            response = self.client.read_response()
        except Ended:
            if self.case.end is End.OPEN:
                yield "the server ends the connection"
        except (ProtocolError, Silence) as error:
            yield f"a further request: {error}"
        else:
            if (response.status, response.content) != (200, b"hello"):
                yield f"a further request is answered with {response.status} {short(response.content)}"


_TAKE: dict[type[Step], Callable[[Dialogue, Any], None]] = {
    words.Write: Dialogue.take_write,
    words.Bytewise: Dialogue.take_bytewise,
    words.Until: Dialogue.take_until,
    words.Told: Dialogue.take_told,
    words.Go: Dialogue.take_go,
    words.Flood: Dialogue.take_flood,
    words.Rest: Dialogue.take_rest,
    words.Other: Dialogue.take_other,
    words.HalfClose: Dialogue.take_half_close,
    words.Close: Dialogue.take_close,
    words.Reset: Dialogue.take_reset,
    words.Term: Dialogue.take_term,
    words.Exits: Dialogue.take_exits,
}


def matches(expected: Any, value: Any) -> bool:
    """Whether a value is as expected, its type included."""
    if isinstance(expected, Check):
        try:
            return bool(expected.holds(value))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            return False
    return type(expected) is type(value) and expected == value


def wanted(expected: Any) -> str:
    return expected.what if isinstance(expected, Check) else short(expected)


def check_response(response: Response, expected: Answer) -> Iterator[str]:
    statuses = (expected.status,) if isinstance(expected.status, int) else expected.status
    if statuses is not None and response.status not in statuses:
        yield f"status {response.status} instead of {statuses[0] if len(statuses) == 1 else 'an error'}"
    if response.whole != expected.whole:
        yield f"it is {'not ' * expected.whole}whole: {response.framing.value}, {short(response.content)}"
    content = expected.content
    if content is not None and not matches(content, response.content):
        yield f"content {short(response.content)} instead of {wanted(content)}"
    framings = (expected.framing,) if not isinstance(expected.framing, tuple) else expected.framing
    if expected.framing is not None and response.framing not in framings:
        yield f"its content ends by {response.framing.value}"
    for name, values in expected.fields:
        if not matches(values, response.values(name)):
            yield f"field {name.decode()} is {response.values(name)} instead of {wanted(values)}"
    if expected.interims is not None and tuple(status for status, _ in response.interims) != expected.interims:
        yield f"before it came {response.interims} instead of {expected.interims}"
    if expected.trailers is not None and tuple(response.trailers) != expected.trailers:
        yield f"trailers {response.trailers} instead of {expected.trailers}"


def check_told(dialogue: Dialogue) -> Iterator[str]:
    """What the application told, against what it should have."""
    case = dialogue.case
    dialogue.server.control.settle()
    yield from check_values(dialogue, case.told, case.name)
    yield from check_values(dialogue, case.lifespan_told, "lifespan")
    if case.scope:
        yield from check_scope(dialogue)
    unwanted = [(name, case.name) for name in case.untold] + [(name, "lifespan") for name in case.unlifespan]
    for name, token in unwanted:
        for event in dialogue.events(name, token):
            yield f"the application told {name!r}: {short(event.value)}"
    if case.once and (times := len(dialogue.events(case.once, "lifespan"))) != 1:
        yield f"the application told {case.once!r} {times} times"
    for event in dialogue.events("scope"):
        if case.never is not None and matches(case.never, event.value):
            yield f"the scope has {case.never.what}"
    calls = len(dialogue.events("scope"))
    if case.calls is not None and calls > case.calls:
        yield f"the application was called {calls} times"
    yield from check_order(dialogue)
    yield from check_log(dialogue)


def check_values(dialogue: Dialogue, told: Iterable[tuple[str, Any]], token: str) -> Iterator[str]:
    """Each name was told as often as expected, at least, with these values."""
    told = list(told)
    for name in dict.fromkeys(name for name, _ in told):
        expected = [value for key, value in told if key == name]
        came = dialogue.wait_told(name, len(expected), token)
        values = [event.value for event in dialogue.events(name, token)]
        if not came:
            yield f"the application told {name!r} {len(values)} times instead of {len(expected)}: {short(values)}"
        for value, want in zip(values, expected, strict=False):
            if not matches(want, value):
                yield f"{name}: {short(value)} instead of {wanted(want)}"


def check_scope(dialogue: Dialogue) -> Iterator[str]:
    if not dialogue.wait_told("scope", max(1, dialogue.answered)):
        yield "the application wasn't called"
        return
    scope = dialogue.events("scope")[-1].value
    ours = (b"x-token", b"x-script")
    scope["headers"] = [field for field in scope["headers"] if field[0].lower() not in ours]
    scope["<client>"], scope["<server>"] = dialogue.client.name, dialogue.client.peer
    for key, want in dialogue.case.scope.items():
        value = scope.get(key, ABSENT) if key else scope
        if not matches(want, value):
            yield f"scope[{key!r}]: {short(value)} instead of {wanted(want)}" if key else f"the scope isn't {want.what}"


def check_order(dialogue: Dialogue) -> Iterator[str]:
    order = dialogue.case.order
    ours = (dialogue.case.name, "lifespan")
    names = [event.name for event in list(dialogue.server.control.events) if event.token in ours]
    places = [names.index(name) if name in names else -1 for name in order]
    if -1 in places:
        yield f"{order[places.index(-1)]!r} was never told"
    elif places != sorted(places):
        yield f"events came as {sorted(order, key=names.index)}"


def check_log(dialogue: Dialogue) -> Iterator[str]:
    case, server = dialogue.case, dialogue.server
    if case.log:
        deadline = time.monotonic() + PATIENCE
        while case.log not in server.log()[dialogue.log_start :]:
            if time.monotonic() > deadline:
                yield f"{case.log.decode()!r} isn't logged"
                break
            time.sleep(0.02)  # a file tells nobody that it grows
    if case.unlogged and case.unlogged in server.log()[dialogue.log_start :]:
        yield f"{case.unlogged.decode()!r} is logged"


class Runner:
    """Runs cases against one kind of server, which it starts as often as they need it."""

    def __init__(self, peer: Peer, directory: Path) -> None:
        self.peer = peer
        self.directory = directory
        self.known: dict[str, Any] = {}
        self._server: Server | None = None
        self._variant = ""
        self._started = 0

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def _start(self, variant: str, lifespan: str = "") -> Server:
        self._started += 1
        server = Server(self.peer, self.directory / str(self._started), variant, lifespan)
        (server.directory / "payload").write_bytes(PAYLOAD)
        return server

    def _shared(self, variant: str) -> Server:
        """The server for cases of this variant: running, and answering."""
        if self._server is not None and (self._variant != variant or self._server.process.poll() is not None):
            self._stop()
        if self._server is None:
            self._variant = variant
            self._server = self._start(variant)
        return self._server

    def learn(self) -> None:
        """Find out which extensions and version the server has."""
        server = self._shared("")
        try:
            with contextlib.closing(server.connect()) as client:
                client.write(b"GET / HTTP/1.1\r\nHost: h\r\nX-Token: learn\r\n\r\n")
                client.read_response()
        except (OSError, Silence, Ended, ProtocolError) as error:
            log = server.log().decode(errors="replace")
            raise NotServing(f"the server doesn't answer at all: {error!r}\n{log}") from error
        server.control.settle()
        (scope,) = [event.value for event in server.control.of("learn") if event.name == "scope"]
        offered = {*(scope.get("extensions") or ()), *(["state"] if "state" in scope else [])}
        self.known = {"offered": offered, "spec_version": _version(scope)}

    def missing(self, case: Case) -> str | None:
        """Say what the server lacks to be asked this."""
        if case.variant and getattr(self.peer, case.variant) is None:
            return f"no option for {case.variant} is known"
        for need in case.needs:
            if need[0].isdigit():
                if self.known["spec_version"] < tuple(map(int, need.split("."))):
                    return f"the server speaks a version before {need}"
            elif need not in self.known["offered"]:
                return f"the server doesn't offer {need}"
        return None

    def run(self, case: Case) -> Result:
        if not self.known:
            self.learn()
        if (reason := self.missing(case)) is not None:
            return Result(case, Outcome.SKIP, (reason,))
        if not case.lifespan:
            return self._run(case, self._shared(case.variant))
        server = self._start(case.variant, case.lifespan)
        try:
            return self._run(case, server)
        finally:
            server.end()

    def _run(self, case: Case, server: Server) -> Result:
        if not case.lifespan:
            with contextlib.suppress(OSError):
                server.connect().close()  # it has started
            server.control.clear()
        dialogue = Dialogue(case, server)
        try:
            reasons = tuple(dialogue.run())
        finally:
            dialogue.close()
        if not case.lifespan and server.process.poll() is not None:
            reasons = (*reasons, f"the server's process ended with {server.process.returncode}")
        return Result(case, Outcome.FAIL if reasons else Outcome.PASS, reasons)


def _version(scope: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, scope["asgi"].get("spec_version", "2.0").split(".")))


def in_order(cases: Iterable[Case]) -> list[Case]:
    """Put the cases of a variant one after the other: they share a server."""
    return sorted(cases, key=lambda case: (bool(case.lifespan), case.variant))


def run_all(peer: Peer, directory: Path, cases: Iterable[Case], report: Callable[[Result], None]) -> list[Result]:
    """Run cases; report each as it ends."""
    results = []
    with Runner(peer, directory) as runner:
        for case in in_order(cases):
            result = runner.run(case)
            report(result)
            results.append(result)
    return results
