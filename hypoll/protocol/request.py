"""`Request`: what a handler sees of one.

Laws: a request builds what is asked of it when it is asked, from the bytes of its head, and builds it once. Fields
stay as they were received: decoded as latin-1 (RFC 9110, 5.5), never guessed at.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson

from hypoll.protocol import request_id as protocol_request_id
from hypoll.protocol.cookies import parse_cookies
from hypoll.protocol.errors import HTTPError
from hypoll.protocol.header_section import BLANKS, EMPTY_SECTION, REQUEST_ID, TRACEPARENT, HeaderSection
from hypoll.protocol.multidict import Cookies, Headers, QueryFields
from hypoll.protocol.peer import NO_ORIGIN, NOBODY, Client, Origin, Peer
from hypoll.protocol.request_id import CHARACTERS, MAX_ID, trace_id
from hypoll.protocol.state import State

if TYPE_CHECKING:
    from hypoll.protocol.forms import Form, FormLimits

MAX_QUERY_FIELDS = 1000
"""The most fields `Request.query` takes from a query string."""


class BodyStore(Protocol):
    """What holds a request's body between the connection and the application: a `hypoll.server.spool.Spool`."""

    @property
    def room(self) -> int:
        """Bytes that it can take at the moment."""

    @property
    def failing(self) -> bool:
        """Whether it can't take any, and will not soon."""

    def wait(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once, on the loop, when there may be room."""

    def force(self, data: bytes) -> None:
        """Take all of the data. Raises `OSError`."""

    def take(self, size: int) -> bytes:
        """Give the next bytes, at most `size`; b"": it holds none. Raises `OSError`."""

    def close(self) -> None:
        """Discard what it holds."""


class BodyUsageCount(Protocol):
    """Counts the memory of a request's body, for as long as that lasts: a `hypoll.server.body_memory.BodyUsage`."""

    def grow(self, size: int, missing: int = 0) -> bool:
        """Note that the body has so many bytes now. False: there is no room for these and the `missing` ones."""


class Request:
    """A request as a handler sees it. Everything but `method` and `body` is built when first asked for.

    Attributes of your own may be set: they last as long as the request. `state` has room for them, with types.

    Args:
        method: the method, upper case.
        target: the request-target in origin-form, as bytes: path and query still encoded.

    Attributes:
        method: the method, upper case.
        body: the content, decoded from chunks. Empty when there was none.
        keep_alive: whether the connection may serve another request after this one (RFC 9112, 9.3).
        minor: the minor version: 1 of HTTP/1.1, 0 of HTTP/1.0.
        size: bytes on the wire, head and body; 0: it isn't whole yet.
        expects_continue: whether the client waits for 100 (Continue) before it sends the content (RFC 9110, 10.1.1).
        authority: host and port of an absolute-form target, else None.
        upgrade: the protocol that the client asks to go on with, where hypoll speaks it: "websocket".
        route: the path of its route as it was declared, where that is known already.
        script_name: the path that the application is mounted at, percent-encoded, under another WSGI server.
        application_data: what the `Application` that answers it keeps with it.
        body_usage: counts the memory that the body takes while it is received and had.
        spooled: holds the body, in place of `body`, where the application asked for that.
        arrived, called, returned: when the turn began in which it was whole, and when its handler was called and came
            back, by the loop's clock, where the server is observed.
    """

    body: bytes = b""
    keep_alive: bool = True
    expects_continue: bool = False
    authority: str | None = None
    upgrade: str = ""
    spooled: BodyStore | None = None
    body_usage: BodyUsageCount | None = None
    minor: int = 1
    size: int = 0
    arrived: float = 0.0
    called: float = 0.0
    returned: float = 0.0
    _params: dict[str, Any] | None = None
    _headers: Headers | None = None
    _query: QueryFields | None = None
    _cookies: Cookies | None = None
    _state: State | None = None
    _form: Form | None = None
    _id: bytes | None = None
    route: str | None = None
    script_name: str = ""
    application_data: Any = None

    def __init__(
        self,
        method: str,
        target: bytes,
        header_section: HeaderSection = EMPTY_SECTION,
        peer: Peer = NOBODY,
        plain: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.header_section = header_section
        self.peer = peer
        # HTTP/1.1, keep-alive, not HEAD: nothing about its answer is special.
        self.plain = plain

    @property
    def params(self) -> dict[str, Any]:
        """What the route's pattern took from the path, converted."""
        if self._params is None:
            self._params = {}
        return self._params

    @params.setter
    def params(self, params: dict[str, Any]) -> None:
        self._params = params

    @property
    def raw_path(self) -> str:
        """The path as it was sent, percent-encoding untouched."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def path(self) -> str:
        """The path, percent-decoded: an encoded slash looks like a real one, what isn't UTF-8 is U+FFFD."""
        return unquote_to_bytes(self.target.partition(b"?")[0]).decode("utf-8", "replace")

    @property
    def query_string(self) -> str:
        """What follows the first `?` of the target, without it; empty when there is none."""
        return self.target.partition(b"?")[2].decode("latin-1")

    @property
    def query(self) -> QueryFields:
        """The query's fields, decoded as forms are. Raises `HTTPError` 400 when there are more than 1,000.

        `query["page"]` is a 400 to the client where it has none; `query.get("page", 1, type=int)` is one where that
        isn't an int.
        """
        if self._query is None:
            try:
                pairs = _split_query(self.query_string) or parse_qsl(
                    self.query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
                )
            except ValueError as error:
                raise HTTPError(400, f"the query has more than {MAX_QUERY_FIELDS} fields") from error
            self._query = QueryFields(pairs)
        return self._query

    @property
    def headers(self) -> Headers:
        """The header fields, to be asked as `query` is. Trailer fields are not among them."""
        if self._headers is None:
            self._headers = Headers(list(self.header_section.fields))
        return self._headers

    @property
    def cookies(self) -> Cookies:
        """The cookies by name (RFC 6265, 4.2), to be asked as `query` is; of a repeated name the first, unquoted."""
        if self._cookies is None:
            self._cookies = Cookies(parse_cookies(self.headers.get("cookie", "")))
        return self._cookies

    def compact(self) -> None:
        """Let go of what can be made of the header section again: of a request that stays for long."""
        self._headers = self._cookies = None
        self.header_section.compact()

    @property
    def state(self) -> State:
        """Whatever the application notes of this request, as attributes: a `before` hook for the handler, say."""
        if self._state is None:
            self._state = State()
        return self._state

    @property
    def stream(self) -> Any:
        """The body's pieces as they come, in a route declared `stream=True`. Raises `RuntimeError` in any other."""
        raise RuntimeError("request.stream is for routes declared with stream=True: use request.body")

    def json(self) -> Any:
        """The body as JSON. Raises `HTTPError` 400 that says where the body isn't JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise HTTPError(400, f"the body is not JSON: {error}") from error

    def form(
        self,
        *,
        max_parts: int = 1000,
        max_field: int = 1024 * 1024,
        max_part_header: int = 8192,
        max_size: int | None = None,
        memory: int = 512 * 1024,
    ) -> Form:
        """The body as a form, urlencoded or multipart/form-data; asked for again, the same.

        In a route declared with `stream=True` it comes as it is read: iterate over its parts, by `for` in a threaded
        handler and `async for` in an `async def`, or have `read()`, which is to be awaited there, store all of it.

        Args:
            max_parts: the most fields and files together.
            max_field: the most bytes of a text.
            max_part_header: the most bytes of a header field of a part.
            max_size: the most bytes of the body; None: as many as the route takes, its `max_body` or else `--max-body`.
            memory: bytes of a file that are kept in memory; a larger one goes to a temporary file.

        Raises:
            HTTPError: 415 for a body that is no form, 400 for one that is malformed, 413 for what is over a limit.
            ModuleNotFoundError: Where the library multipart isn't installed, which a multipart form needs.
            OSError: For a file that can't be stored.
        """
        if self._form is None:
            from hypoll.protocol.forms import FormLimits  # only here: tempfile takes as long to load as Routes

            limits = FormLimits(max_parts, max_field, max_part_header, max_size, memory)
            self._form = self._make_form(self.headers.get("content-type", ""), limits)
        return self._form

    def _make_form(self, content_type: str, limits: FormLimits) -> Form:
        from hypoll.protocol.forms import store_form

        form = store_form(self.body, content_type, limits)
        self._close_at_end(form)
        return form

    def _close_at_end(self, form: Form) -> None:
        """Close the files of a form when nobody has the request any more."""
        weakref.finalize(self, form.close).atexit = False

    @property
    def host(self) -> str:
        """Host and port as the client named them: the target's authority, or else the Host field (RFC 9112, 3.2.2).

        Behind a trusted proxy what it says that the client named.
        """
        forwarded_host = self._origin.host
        if forwarded_host is not None:
            return forwarded_host
        return self.headers.get("host", "") if self.authority is None else self.authority

    @property
    def client(self) -> Client:
        """(address, port) of the client: the other end of the connection, or whom a trusted proxy there speaks for.

        The port is 0 where a proxy doesn't name it. ("", 0) over a unix socket. ("unknown", 0) when trusted proxies
        name no address, hide it, or contradict each other: that is no client of this machine, and none of a network.
        """
        # `_origin`, without a call: the access log asks for each request.
        section = self.header_section
        origin = section.origin
        if origin is None:
            find_origin = self.peer.origin
            if find_origin is None:
                return self.peer.client
            section.origin = origin = find_origin(section)
        return origin.client or self.peer.client

    @property
    def scheme(self) -> str:
        """`http` or `https`, by the word of a trusted proxy where there is one."""
        return self._origin.scheme or self.peer.scheme

    @property
    def draining(self) -> bool:
        """Whether the server is going away: a stream without an end had better come to one. Any thread may ask."""
        return self.peer.drain.begun

    @property
    def _origin(self) -> Origin:
        """What is believed of the fields that proxies write; checked once for a header section."""
        find_origin = self.peer.origin
        if find_origin is None:
            return NO_ORIGIN
        section = self.header_section
        if section.origin is None:
            section.origin = find_origin(section)
        return section.origin

    @property
    def id(self) -> str:
        """A name for this request, to find it in the log: the one it came with, or 16 hexadecimal digits.

        See `hypoll.protocol.request_id`.
        """
        return (self._id or self.assign_id()).decode()

    def assign_id(self) -> bytes:
        """Find the id, as bytes, or make one. To be asked once, before it is known."""
        noted = self.header_section.indexed
        name = None
        if noted:
            name = noted.get(REQUEST_ID)
            if name:
                name = name.strip(BLANKS)
            # Nothing is left when what may be in it is taken out: half the time of a regular expression.
            if not name or len(name) > MAX_ID or not (name.isalnum() or not name.translate(None, CHARACTERS)):
                value = noted.get(TRACEPARENT)
                name = value and trace_id(value.strip(BLANKS))
        self._id = name = name or next(protocol_request_id.names)
        return name

    if not TYPE_CHECKING:  # to a type checker there are no other attributes

        def __getattr__(self, name: str) -> Any:
            """Say what to use in place of an attribute that there isn't. Raises `AttributeError`."""
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # it is there: this raises what its own code has raised
            from hypoll.protocol.foreign_names import (
                advice,  # only here: of no use to a request that is asked for others
            )

            raise AttributeError(f"Request has no attribute {name!r}{advice(name, dir(type(self)))}")

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target.decode('latin-1')}>"


class PlainRequest(Request):
    """A request about which nothing is special. Who makes one sets all that `Request` takes: that spares a call."""

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__


class StreamedRequest(Request):
    """A request whose handler began before its body was whole.

    Attributes:
        stream: an iterator of the body's pieces for a threaded handler, an async iterator for an `async def` one;
            `read()` gives all that is left. See `hypoll.server.request_body`.
    """

    stream: Any = None

    @property
    def body(self) -> bytes:  # type: ignore[override]
        """Raises `RuntimeError`: the body isn't kept."""
        raise RuntimeError("the body of a route declared with stream=True is request.stream: iterate, or read() it")

    def _make_form(self, content_type: str, limits: FormLimits) -> Form:
        from hypoll.protocol.form_stream import AsyncFormStream, FormStream
        from hypoll.protocol.forms import FormParser

        parser = FormParser(content_type, limits)
        kind = AsyncFormStream if hasattr(self.stream, "__aiter__") else FormStream
        return kind(self.stream, parser, limits, self._close_at_end)


PlainRequest.__name__ = StreamedRequest.__name__ = Request.__name__  # what messages call it, as one who reads them does


def _split_query(query: str) -> list[tuple[str, str]]:
    """The fields of a query in which nothing is encoded, as `parse_qsl` gives them; empty: it has to."""
    if "%" in query or "+" in query or query.count("&") >= MAX_QUERY_FIELDS:
        return []
    fields = []
    for field in query.split("&"):
        if field:
            name, _, value = field.partition("=")
            fields.append((name, value))
    return fields
