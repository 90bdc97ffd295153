"""Routes: their paths and parameters, and what their handlers and hooks must take.

Segments are cut before they are percent-decoded (RFC 3986, 2.4), so an encoded slash stays inside its segment.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from hypoll.contracts import HandlerCall, RunOn
from hypoll.protocol.messages import HTTPError
from hypoll.web.json_encoding import PLAIN, JSONEncoder
from hypoll.web.naming import forms_of, is_async, name_of, place_of
from hypoll.web.signatures import contradiction, signature_of

Handler = Callable[..., Any]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
"""The methods a route may be declared for."""

_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_FOREIGN = re.compile(r":(?P<colon>\w*).*|<(?:(?P<converter>\w+)(?:\(.*\))?:)?(?P<angle>\w+)>")
"""A parameter as other frameworks write it: `:id`, `<id>`, `<int:id>`."""


WITHOUT_HOOK: Any = ...
"""What stands for a hook where a decorator was called that is none that is called."""

HOOK_MAKERS: dict[Callable[..., Any], str] = {}
"""Functions that make hooks, which are taken for one easily; each with what to write."""


class RouteError(ValueError):
    """A route can't be declared as it is, or has no such URL; the message names the route and the reason."""


class Converter(NamedTuple):
    """A kind of parameter: what it matches, and what the handler gets."""

    name: str
    pattern: re.Pattern[str]
    convert: Callable[[str], Any]

    @property
    def gives(self) -> type:
        """The type of what it makes."""
        return self.convert  # type: ignore[return-value]  # each is the type itself


CONVERTERS = {
    converter.name: converter
    for converter in (
        # The most special first: this is the order in which a segment is tried.
        Converter("int", re.compile(r"[0-9]{1,18}", re.ASCII), int),
        Converter("float", re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?", re.ASCII), float),
        Converter("uuid", re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), uuid.UUID),
        Converter("str", re.compile(r".+", re.DOTALL), str),
        Converter("path", re.compile(r".*", re.DOTALL), str),
    )
}
"""`int` and `float` are unsigned decimals, `uuid` the hyphenated form, `str` one segment, `path` all that is left."""


class Files(Protocol):
    """The files of a route whose other paths have one page: what other routes have below it is not its own."""

    def has(self, path: str) -> bool:
        """Whether there is a file at this path."""


@dataclass(frozen=True)
class Route:
    """A path and a handler.

    Attributes:
        scopes: the hooks of the `Routes` it was reached through, outermost first.
        run_on: where the handler runs.
        stream: whether it begins at the end of the head, and takes the body from `request.stream`.
        url_name: what `Routes.url_for` knows it by; None: it doesn't.
        redirects: whether its path without, or with, the slash at its end leads to it; None: as its scopes say.
        files: where its paths are looked for that are no pages of others; None: it has every path that matches.
        max_body: bytes that the body of its requests may have; None: as the settings say.
        handler_call: how a handler that doesn't run on the loop is called; None: it does.
        direct: the same, for a request without parameters.
        encoder: what encodes the JSON that the handler gives.
        socket: what calls the handler of a WebSocket, a `hypoll.websocket.route.SocketRoute`; None: it is none.
    """

    path: str
    methods: tuple[str, ...]
    handler: Handler
    scopes: tuple[Any, ...] = ()
    run_on: RunOn = RunOn.LOOP
    stream: bool = False
    url_name: str | None = None
    redirects: bool | None = None
    files: Files | None = None
    max_body: int | None = None
    handler_call: HandlerCall | None = dataclasses.field(default=None, repr=False, compare=False)
    direct: HandlerCall | None = dataclasses.field(default=None, repr=False, compare=False)
    encoder: JSONEncoder = dataclasses.field(default=PLAIN, repr=False, compare=False)
    socket: Any = dataclasses.field(default=None, repr=False, compare=False)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its parameters, from left to right."""
        return tuple(segment.name for segment in parse_path(self.path) if isinstance(segment, Parameter))

    def has(self, values: list[Any]) -> bool:
        """Whether it has the path that its parameters' values are of, for all methods."""
        return self.files is None or self.files.has(values[-1])

    @property
    def name(self) -> str:
        """The handler as a person would look for it."""
        return name_of(self.handler)

    @property
    def place(self) -> str:
        """The handler's name, with its file and line where it has one."""
        return place_of(self.handler)


Methods = dict[str, Route]
"""The routes of a path, by method."""

Matches = list[tuple[Methods, list[Any]]]
"""What a path leads to, the most special first, with the values of its parameters."""


class Parameter(NamedTuple):
    """A `{name:converter}` of a path."""

    name: str
    converter: Converter


def parse_path(path: str) -> list[str | Parameter]:
    """The segments of a route's path; "", a mount's own path, has none. Raises `RouteError`."""
    if not isinstance(path, str):
        raise RouteError(f"the path must be a str, as in @routes.get('/users'), not {path!r}")
    if not path:
        return []
    if not path.startswith("/"):
        raise RouteError(f"the path {path!r} must begin with a slash")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise RouteError(f"the path {path!r} has a lone surrogate: no request could name it") from None
    segments = [_parse_segment(path, text) for text in path[1:].split("/")]
    names = [segment.name for segment in segments if isinstance(segment, Parameter)]
    for name in names:
        if names.count(name) > 1:
            raise RouteError(f"the path {path!r} names the parameter {name!r} twice")
    for segment in segments[:-1]:
        if isinstance(segment, Parameter) and segment.converter.name == "path":
            raise RouteError(f"in the path {path!r} the path parameter {segment.name!r} must come last")
    return segments


def _parse_segment(path: str, text: str) -> str | Parameter:
    match = _PARAMETER.fullmatch(text)
    if match is None:
        begun, ended = text.count("{"), text.count("}")
        if begun != ended:
            missing = "}" if begun > ended else "{"
            raise RouteError(f"the path {path!r} has a parameter that isn't whole, {text!r}: its {missing} is missing")
        if begun:
            raise RouteError(f"in the path {path!r} a parameter must be a whole segment, as in /users/{{id:int}}")
        if set(text) & set("?#%"):
            raise RouteError(f"the path {path!r} must be written decoded, without %, query or fragment")
        _refuse_foreign(path, text)
        return text
    name, converter = match[1], match[2] if match[2] is not None else "str"
    if not name.isidentifier():
        raise RouteError(f"in the path {path!r} the parameter name {name!r} is no Python name")
    if converter not in CONVERTERS:
        known = ", ".join(CONVERTERS)
        raise RouteError(f"the path {path!r} has the unknown converter {converter!r}: there are {known}")
    return Parameter(name, CONVERTERS[converter])


def _refuse_foreign(path: str, text: str) -> None:
    """Raise `RouteError` for a segment that other frameworks would take for a parameter: here it is a literal."""
    match = _FOREIGN.fullmatch(text)
    if match is None:
        return
    name, converter = match["colon"] or match["angle"] or "name", match["converter"]
    wanted = f"{{{name}:{converter}}}" if converter in CONVERTERS and converter != "str" else f"{{{name}}}"
    raise RouteError(f"in the path {path!r} the segment {text!r} is no parameter: write {wanted}")


def find_run_on(where: str, function: Handler, threaded: bool = False) -> RunOn:
    """Where a handler or hook runs. Raises `RouteError` when it can't be called, or doesn't answer by returning."""
    if not callable(function):
        raise RouteError(f"{where}: {function!r} can't be called")
    if any(inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form) for form in forms_of(function)):
        raise RouteError(f"{where}: {place_of(function)} must not yield: return Response(generator()) from it")
    if is_async(function):
        if threaded:
            raise RouteError(f"{where}: an async def handler awaits on the loop: leave threaded=True out, or use def")
        return RunOn.TASK
    return RunOn.THREAD if threaded else RunOn.LOOP


def check_handler(path: str, handler: Handler, first: str = "request") -> None:
    """See that the handler can be called with the request, or the `first` argument of another name, and the path's
    parameters, and that what it says of their types is true. Raises `RouteError`.
    """
    parameters = [segment for segment in parse_path(path) if isinstance(segment, Parameter)]
    where = f"the handler {place_of(handler)} of {path!r}"
    try:
        _check_arguments(where, handler, [first], [parameter.name for parameter in parameters])
    except RouteError as error:
        if "missing a required" not in str(error):
            raise
        raise RouteError(f"{error}; a parameter that only the prefix of a mount has needs a default") from None
    for parameter in parameters:
        given = parameter.converter.gives
        annotation = contradiction(handler, parameter.name, given)
        if annotation:
            name = parameter.name
            raise RouteError(
                f"{where} takes {name}: {annotation}, but {{{name}:{parameter.converter.name}}} gives {given.__name__}"
            )


def check_hook(run_on: str, hook: Handler, *arguments: str) -> bool:
    """See that a hook can be called with its arguments, and returns. Whether it is async. Raises `RouteError`."""
    if hook is WITHOUT_HOOK:
        raise RouteError(f"@routes.{run_on} stands without parentheses: there is nothing to say in them")
    if inspect.isfunction(hook) and hook in HOOK_MAKERS:
        raise RouteError(f"{hook.__name__} is no hook, it makes one: {HOOK_MAKERS[hook]}")
    where = f"the {run_on} hook {place_of(hook)}"
    found = find_run_on(where, hook)
    _check_arguments(where, hook, list(arguments), [])
    return found is RunOn.TASK


def _check_arguments(where: str, function: Handler, positional: list[str], named: list[str]) -> None:
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):
        return  # some built-in callables have none
    try:
        signature.bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        wanted = ", ".join([*positional, *named])
        raise RouteError(f"{where} must take ({wanted}), but takes {signature}: {error}") from None


def decoded_segments(path: bytes) -> list[str]:
    """The decoded segments of a path. Raises `HTTPError` 400."""
    try:
        if b"%" in path:
            segments = [unquote_to_bytes(segment).decode() for segment in path[1:].split(b"/")]
        else:
            segments = path[1:].decode().split("/")
    except UnicodeDecodeError:
        raise HTTPError(400, "the path is not UTF-8") from None
    return segments
