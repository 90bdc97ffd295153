"""`Response`, and the bodies that one may have."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import orjson

from hypoll.protocol.cookies import format_cookie, format_deletion, is_same_cookie
from hypoll.protocol.disposition import content_disposition
from hypoll.protocol.errors import HTTPError, reason
from hypoll.protocol.fields import HeaderSource, ResponseHeaders
from hypoll.protocol.response_checks import PLAIN_BODIES, check_body, check_status

if TYPE_CHECKING:
    from hypoll.protocol.request import Request

JSON = "application/json"


class StreamedBody:
    """A response's body that comes in pieces which the connection pulls, framed already by `framer`.

    Attributes:
        framer: what frames them; None: it is given one when its head is made.
        heartbeat, interval: see `hypoll.protocol.serializer.Remainder.heartbeat`.
        ends_with_server: see `hypoll.protocol.serializer.Remainder.end`.
    """

    heartbeat: bytes | None = None
    interval: float | None = None
    ends_with_server = False
    framer: Any = None
    sent = 0
    """Bytes that it has sent by itself, beside what was pulled."""

    @property
    def mid_piece(self) -> bool:
        """Whether the rest of a piece is to come."""
        return False

    def attach(self, ready: Callable[[], object], loop: Any) -> None:
        """Call `ready()` on the loop, `hypoll.loop.Loop`, when there is something to pull."""
        raise NotImplementedError

    def end(self) -> None:
        """Come to an end, as if there were no more pieces."""
        raise NotImplementedError

    def pull(self, sock: Any, output: Any) -> Any:
        """Append what is here; see `hypoll.server.response_body.Source`."""
        raise NotImplementedError

    def close(self) -> None:
        """Nobody will pull any more."""
        raise NotImplementedError

    def detach(self) -> None:
        """Have nobody wait for long for what made the pieces."""


class Resource(Protocol):
    """A body that it takes the request to choose the answer of, such as a file."""

    def respond(self, request: Request, response: Response, /) -> Response:
        """The response to be sent for `response`, whose body this is."""
        ...


class DataclassObject(Protocol):
    """An object of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class StructObject(Protocol):
    """An object of a class of msgspec's."""

    __struct_fields__: ClassVar[tuple[str, ...]]


class ModelObject(Protocol):
    """An object of a class of pydantic's."""

    def model_dump_json(self) -> str:
        """The object as JSON."""
        ...


JSONBody = dict[Any, Any] | DataclassObject | StructObject | ModelObject
"""Bodies that are encoded as JSON."""


class Response:
    """An answer, sent as it is.

    Date, Server and the framing (Content-Length or chunked) are added when it is sent.

    Args:
        body: bytes; str, sent as UTF-8; a `File`; a dict or an object of a dataclass, of msgspec or pydantic, sent as
            JSON; or an iterator of bytes, pulled one piece whenever the client can take more: on the pool when the
            handler is threaded. From an `async def` handler it may be an async iterator.
        status: the status code, 200 to 599.
        headers: a mapping, or pairs where names repeat; a list as a value makes a line of each item. They are copied.
        content_type: the Content-Type. Default: `text/plain; charset=utf-8` for str, `application/octet-stream` for
            bytes and iterators, `application/json` for JSON, none for an empty body. "": none.
        background: a function without arguments that is called after the answer: see `background`.

    Attributes:
        fields: the `headers`, if there are any: asking for those makes some.
        is_plain: whether its head has no more of its own than its status and Content-Type, and nothing is to be done
            after it: it is sent the fastest way.

    Raises:
        ValueError: For a header field that could break the framing of the message, and another status.
        TypeError: For a header field that is no str, and for a body or status that can't be one. A list, tuple or set
            holds a body's pieces, so bytes alone.
    """

    is_plain = True
    fields: ResponseHeaders | None = None
    _reason: str | None = None
    _background: Callable[[], Any] | None = None

    def __init__(
        self,
        body: bytes | bytearray | memoryview | str | Iterable[bytes] | AsyncIterable[bytes] | Resource | JSONBody = b"",
        status: int = 200,
        headers: HeaderSource | None = None,
        content_type: str | None = None,
        background: Callable[[], Any] | None = None,
    ) -> None:
        # Looked at here, without a call, where nothing is wrong.
        if status.__class__ is not int or not 200 <= status <= 599:
            check_status(status)
        if body.__class__ not in PLAIN_BODIES:
            check_body(body)
        self.body = body
        self.status = status
        self.content_type = content_type
        if headers is not None:
            self.headers = headers
        if background is not None:
            self.background = background

    @property
    def headers(self) -> ResponseHeaders:
        """The header fields, to be read and changed; of whatever is assigned, a mapping or pairs, they are a copy."""
        if self.fields is None:
            self.fields = ResponseHeaders()
            self.is_plain = False
        return self.fields

    @headers.setter
    def headers(self, headers: HeaderSource | None) -> None:
        self.fields = None if headers is None else ResponseHeaders(headers)
        self._find_plain()

    @property
    def reason(self) -> str | None:
        """The reason phrase, to be set where it isn't to be the registered one."""
        return self._reason

    @reason.setter
    def reason(self, reason: str | None) -> None:
        self._reason = reason
        self._find_plain()

    @property
    def background(self) -> Callable[[], Any] | None:
        """What is to be done after the answer: called without arguments, in the request's context, once.

        It runs in the handler's own kind: on the loop when the answer is sent, which it holds meanwhile; on the thread
        of a threaded handler; in the task of an `async def` handler, where it may be an `async def`, too. It runs also
        when the client has gone. What it raises is logged. A server that is stopped waits for it as for a request.
        """
        return self._background

    @background.setter
    def background(self, background: Callable[[], Any] | None) -> None:
        if background is not None and not callable(background):
            raise TypeError(f"the background work of a response is called without arguments: {background!r} can't be")
        self._background = background
        self._find_plain()

    def _find_plain(self) -> None:
        self.is_plain = self.fields is None and self._reason is None and self._background is None

    def set_header(self, name: str, value: str) -> None:
        """Set a field, in place of those of its name: `headers[name] = value`."""
        self.headers[name] = value

    def set_filename(self, filename: str, *, inline: bool = False) -> None:
        """Have browsers save the answer under a name: the field Content-Disposition (RFC 6266, RFC 8187).

        Args:
            filename: of whatever characters. What no file name may have, as a slash or a line end, becomes `_`.
            inline: whether they show it, if they can, and take the name only when it is saved.

        Raises:
            TypeError: For a name that is no str.
            ValueError: For one that is empty.
        """
        self.headers["Content-Disposition"] = content_disposition(filename, inline=inline)

    def set_cookie(
        self,
        name: str,
        value: str = "",
        *,
        max_age: int | timedelta | None = None,
        expires: datetime | None = None,
        domain: str | None = None,
        path: str | None = "/",
        secure: bool = False,
        httponly: bool = True,
        samesite: str | None = "Lax",
        partitioned: bool = False,
    ) -> None:
        """Have the client keep a cookie (RFC 6265bis), in place of one set before of the same name, domain and path.

        Args:
            name: a token. The prefixes `__Host-` and `__Secure-` are held to what browsers demand of them.
            value: printable ASCII without blanks, double quotes, commas, semicolons and backslashes.
            max_age: for how long, in seconds; 0 or less: it is deleted. None, without `expires`: for the session.
            expires: until when, with a time zone; of no effect beside `max_age`.
            domain: the host whose subdomains get it, too. None: this host alone.
            path: the path below which it is sent. None: that of the request, up to its last slash.
            secure: whether it is sent over TLS only.
            httponly: whether it is kept from JavaScript.
            samesite: whether it goes along with requests that come from other sites: "Strict" never, "Lax" when the
                user follows a link there, "None" always. None: as the browser has it.
            partitioned: whether it is of its own below each site that embeds this one (CHIPS).

        Raises:
            ValueError: For a cookie that browsers would drop or take for another.
            TypeError: For a name or value that is no str.
        """
        self._set_cookie(
            format_cookie(
                name, value, max_age=max_age, expires=expires, domain=domain, path=path, secure=secure,
                httponly=httponly, samesite=samesite, partitioned=partitioned,
            )
        )  # fmt: skip

    def delete_cookie(
        self, name: str, *, domain: str | None = None, path: str | None = "/", partitioned: bool = False
    ) -> None:
        """Have the client delete a cookie: that of this name, with the domain and path that it was set with."""
        self._set_cookie(format_deletion(name, domain=domain, path=path, partitioned=partitioned))

    def _set_cookie(self, field: str) -> None:
        kept = [line for line in self.headers.getall("Set-Cookie") if not is_same_cookie(line, field)]
        self.headers.update([("Set-Cookie", line) for line in (*kept, field)])

    def copy(self) -> Response:
        """The same answer with header fields for itself. The body is shared: an iterator can be sent only once."""
        if type(self) is Response:  # a quarter of what `copy.copy` takes
            other = Response.__new__(Response)
            other.__dict__.update(self.__dict__)
        else:
            other = copy.copy(self)
        if self.fields is not None:
            other.fields = self.fields.copy()
        return other

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def json_response(body: bytes) -> Response:
    """The response for a body that is JSON already."""
    return Response(body, 200, None, JSON)


def problem(error: HTTPError, request_id: str | None = None) -> Response:
    """The problem document of a refusal (RFC 9457): every refusal of hypoll is written here."""
    document: dict[str, Any] = {"type": "about:blank", "title": reason(error.status), "status": error.status}
    if error.detail:
        # A lone surrogate, as of a file name, is no UTF-8, and must not cost the client its answer.
        document["detail"] = error.detail.encode("utf-8", "replace").decode()
    if request_id is not None:
        document["id"] = request_id
    return Response(orjson.dumps(document), error.status, error.headers, "application/problem+json")
