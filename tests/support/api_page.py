"""The tables of docs/api.md: each public name with its signature and the first line of its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypoll
from hypoll import testing, websocket
from hypoll.web.route_options import RouteOptions


class Section(NamedTuple):
    """A part of the page: its title, what it describes, and whether applications call those classes themselves."""

    title: str
    objects: tuple[Any, ...]
    made: bool = True


SECTIONS = (
    Section("An application", (hypoll.Routes,)),
    Section(
        "A request",
        (
            *(hypoll.Request, hypoll.Headers, hypoll.RequestFields, hypoll.MultiDict),
            *(hypoll.Form, hypoll.FormPart, hypoll.AsyncFormPart, hypoll.StoredPart, hypoll.State),
        ),
        made=False,
    ),
    Section("An answer", (hypoll.Response, hypoll.ResponseHeaders, hypoll.File, hypoll.Event)),
    Section("Functions that make one", (hypoll.redirect, hypoll.html, hypoll.sse)),
    Section("Who asks", (hypoll.bearer, hypoll.api_key)),
    Section("Hubs", (websocket.Hub, hypoll.EventHub)),
    Section("A WebSocket", (websocket.Socket, websocket.ThreadSocket, websocket.SocketClosed), made=False),
    Section("Errors", (hypoll.HTTPError, hypoll.RouteError)),
    Section("What is raised to a handler", (hypoll.ClientDisconnect,), made=False),
    Section("Serving, and tests", (hypoll.run, testing.TestClient)),
    Section("A WebSocket of a test", (testing.ClientSocket, testing.HandshakeRefused), made=False),
)

INTERNAL = {
    "Event": {"encode"},
    "EventHub": {"forget", "join"},
    "File": {"described", "open", "respond", "whole"},
    "Form": {"close", "what"},
    "Headers": {"what"},
    "Request": {
        *("application_data", "arrived", "assign_id", "authority", "body_usage", "called", "compact"),
        *("expects_continue", "keep_alive", "minor", "returned", "size", "spooled", "upgrade"),
    },
    "RequestFields": {"what"},
    "Response": {"fields", "is_plain"},
    "Routes": {
        *(
            "amend_refusal",
            "answer",
            "check",
            "drain_hooks",
            "early_refusal",
            "keeps_tasks",
            "least_max_body",
            "max_body_of",
        ),
        *(
            "pattern",
            "periodic",
            "ready_checks",
            "route_at",
            "shutdown",
            "startup",
            "uses_asyncio",
            "uses_threads",
            "wants_spool",
        ),
        "wants_stream",
    },
    "Socket": {"accepted_session", "encoder", "on_loop_thread", "session"},
    "ThreadSocket": {"accepted_session", "encoder", "on_loop", "on_loop_thread", "session"},
}
"""What the server asks of these classes: public to its modules, not to applications."""

SHORT = 30
"""Characters that the text of a default may have, to be shown."""


def page() -> str:
    """The tables, a heading above each, and what has Sphinx show the docstrings in full."""
    directives = [_directive(described) for section in SECTIONS for described in section.objects]
    full = ["## In full", "", "```{eval-rst}", *directives, "```", ""]
    return "\n".join([*map(_table, SECTIONS), *full])


def _directive(described: Any) -> str:
    """Sphinx's, with what its docstring and those of its members say."""
    name = described.__name__
    module = next(one.__name__ for one in (hypoll, websocket, testing) if name in one.__all__)
    kind = "function"
    if inspect.isclass(described):
        kind = "exception" if issubclass(described, Exception) else "class"
    lines = [f".. auto{kind}:: {module}.{name}"]
    if described in (websocket.Socket, websocket.ThreadSocket):
        lines.append("   :inherited-members:")
    if name in INTERNAL:
        lines.append(f"   :exclude-members: {', '.join(sorted(INTERNAL[name]))}")
    return "\n".join(lines)


def _table(section: Section) -> str:
    rows = [row for described in section.objects for row in _rows(described, section.made)]
    lines = [f"| `{name}` | {meaning} |" for name, meaning in rows]
    return "\n".join([f"## {section.title}", "", "| name | meaning |", "| --- | --- |", *lines, ""])


def _rows(described: Any, made: bool) -> Iterator[tuple[str, str]]:
    """A function; or a class, and behind it its attributes and methods by name."""
    name = described.__name__
    yield (name + _signature(described) if made else name), _first_line(described)
    if inspect.isclass(described):
        members = {**_attributes(described), **_methods(described)}
        for member in sorted(members.keys() - INTERNAL.get(name, set())):
            yield members[member]


def _attributes(described: type) -> dict[str, tuple[str, str]]:
    """Those that the docstring describes, or those of the classes that it is made of."""
    found: dict[str, tuple[str, str]] = {}
    for base in _own_classes(described):
        section = re.search(r"(?ms)^Attributes:\n((?: .*?\n|\n)+)", (inspect.getdoc(base) or "") + "\n")
        for names, text in re.findall(r"(?m)^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", section[1] if section else ""):
            for name in names.split(", "):
                found.setdefault(name, (f"{described.__name__}.{name}", _sentence(text)))
    return found


def _methods(described: type) -> dict[str, tuple[str, str]]:
    """Methods and properties."""
    found: dict[str, tuple[str, str]] = {}
    for base in _own_classes(described):
        for name, member in vars(base).items():
            if name.startswith("_") or name in found:
                continue
            shown = f"{described.__name__}.{name}"
            if isinstance(member, property):
                found[name] = (shown, _first_line(member))
            elif inspect.isfunction(member):
                found[name] = (_awaited(member) + shown + _signature(member), _first_line(member))
    return found


def _own_classes(described: type) -> list[type]:
    return [base for base in described.__mro__ if base.__module__.partition(".")[0] == "hypoll"]


def _awaited(function: Any) -> str:
    returns = str(inspect.signature(function).return_annotation)
    return "await " if inspect.iscoroutinefunction(function) or returns.startswith("Coroutine") else ""


def _signature(described: Any) -> str:
    """The parameters with their defaults, without their types and `self`."""
    if inspect.isclass(described) and not any("__init__" in vars(base) for base in _own_classes(described)):
        return "(message)" if issubclass(described, Exception) else "()"  # what Python says of these differs
    parameters = [one for one in inspect.signature(described).parameters.values() if one.name != "self"]
    if parameters and "RouteOptions" in str(parameters[-1].annotation):
        names = RouteOptions.__annotations__
        parameters[-1:] = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_Text("...")) for name in names
        ]
    bare = [one.replace(annotation=inspect.Parameter.empty, default=_shown(one.default)) for one in parameters]
    return str(inspect.Signature(bare))


class _Text:
    """A default as it is shown."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _shown(default: Any) -> Any:
    long = default is ... or len(repr(default)) > SHORT or " at 0x" in repr(default)
    return _Text("...") if long and default is not inspect.Parameter.empty else default


def _first_line(described: Any) -> str:
    return _sentence((inspect.getdoc(described) or "").partition("\n\n")[0])


def _sentence(text: str) -> str:
    """As the cell of a table."""
    line = " ".join(text.split())
    line = re.sub(r"::$", ".", re.sub(r" See `\w+`\.$|; see `\w+\.\w+`", "", line))
    return line[:1].upper() + line[1:].replace("|", "\\|")
