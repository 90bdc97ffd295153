"""Files held open, and what a request makes of one.

Laws: a descriptor belongs to one `OpenFile`, and is closed with it. Nothing is read here.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate

from hypoll.protocol.conditional import CONDITIONS, Outcome, Validators, decide, parse_date
from hypoll.protocol.fields import ResponseHeaders, check_field, lines_of
from hypoll.protocol.messages import HTTPError, Request, Response, problem
from hypoll.protocol.slices import Slice

_REPLACED = frozenset(("content-length", "content-range"))
"""Fields of a handler's response that the file knows better."""

_OF_CONTENT = frozenset(
    ("content-type", "content-encoding", "content-language", "content-disposition", "accept-ranges", *_REPLACED)
)
"""Fields that describe content, which an answer without it doesn't have (RFC 9110, 15.4.5)."""


_CHOOSING = CONDITIONS | {"accept-encoding"}


class OpenFile:
    """A regular file held open for reading. Its descriptor is closed when nothing refers to it any more.

    Args:
        path: where it was found, and is looked for again.
        fd: its descriptor, which becomes the `OpenFile`'s own.
        status: what fstat(2) says of it.
        content_type, fields: what answers say of it beside its validators.
        coding: the content coding the file is in, which makes its entity tag differ from that of other forms of the
            same.

    Raises:
        ValueError, TypeError: For a field that can't be sent.
    """

    __slots__ = ("_changed", "_device", "_inode", "content_type", "fd", "fields", "lines", "path", "size", "validators")

    def __init__(
        self,
        path: str,
        fd: int,
        status: os.stat_result,
        content_type: str,
        fields: Iterable[tuple[str, str]] = (),
        coding: str | None = None,
    ) -> None:
        self.fd = fd
        self.path = path
        self.size = status.st_size
        # Neither inode nor device: the same file on two servers has the same tag.
        mark = "" if coding is None else f"-{coding}"
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}{mark}"'
        modified = int(status.st_mtime_ns // 10**9)
        self.validators = Validators(etag, modified)
        self.fields = [("ETag", etag), ("Accept-Ranges", "bytes"), *fields]
        if modified <= time.time():  # one in the future must not be sent (RFC 9110, 8.8.2.1)
            self.fields.insert(0, ("Last-Modified", formatdate(modified, usegmt=True)))
        if coding is not None:
            self.fields.append(("Content-Encoding", coding))
        (_, self.content_type), *self.fields = itertools.starmap(
            check_field, (("Content-Type", content_type), *self.fields)
        )
        every = [("Content-Type", self.content_type), *self.fields, ("Content-Length", str(self.size))]
        self.lines = "".join(f"{name}: {value}\r\n" for name, value in every).encode("latin-1")
        """The field lines of an answer with the whole file, Server and Date left out."""
        # The change time moves with every write and every change of mode or owner, and can't be set back as mtime can.
        self._changed = status.st_ctime_ns
        self._inode = status.st_ino
        self._device = status.st_dev

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Not set when __init__ was never called. By a name of its own: at the interpreter's end modules are emptied.
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            close(fd)

    def is_current(self) -> bool:
        """Whether its path still leads to this file, and it hasn't changed."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):
            return False
        return (
            status.st_ctime_ns == self._changed
            and status.st_ino == self._inode
            and status.st_size == self.size
            and status.st_dev == self._device
        )

    def whole(self, request: Request) -> OpenFile | None:
        """Itself, when all of it and nothing else is the answer to a GET; None when `respond` must tell."""
        if request.method == "GET" and CONDITIONS.isdisjoint(conditions_of(request)):
            return self
        return None

    def respond(self, request: Request, response: Response) -> Response:
        """The response that `response`, whose body this is, becomes for a request.

        Its body is a `Slice`, or bytes where no file is sent. Raises `OSError` for the server's own troubles,
        `ValueError` or `TypeError` for fields that can't be sent.
        """
        given = given_fields(response)
        content_type = response.content_type or self.content_type
        if response.status != 200 or request.method not in ("GET", "HEAD"):
            return Response(Slice(self, 0, self.size), response.status, given, content_type)
        names = {name.lower() for name, _ in given}
        if "vary" in names:
            given = _vary_too(given, self.fields)
        fields = [*(field for field in self.fields if field[0].lower() not in names), *given]
        outcome, span = decide(request.method, conditions_of(request), _current(self.validators, given), self.size)
        match outcome:
            case Outcome.FAILED:
                changed = HTTPError(412, "the file is not in the state that the request's condition asks for")
                return refused(changed, given, request)
            case Outcome.UNSATISFIABLE:
                beyond = HTTPError(416, f"the range begins beyond the {self.size} bytes of the file")
                answer = refused(beyond, given, request)
                answer.set_header("Content-Range", f"bytes */{self.size}")
                return answer
            case Outcome.UNCHANGED:
                return Response(b"", 304, _without_content(fields))
            case Outcome.PART:
                last = span.offset + span.size - 1
                fields.append(("Content-Range", f"bytes {span.offset}-{last}/{self.size}"))
        return Response(Slice(self, *span), outcome.value, fields, content_type)


def conditions_of(request: Request) -> dict[str, str]:
    """The fields of a request that choose what it gets of a file, by lower-case name, the lines of one joined.

    Found out once for requests with equal header sections: a file's answer is a hot path.
    """
    section = request.header_section
    if section.file_conditions is None:
        found: dict[str, str] = {}
        for name, value in section.fields:
            if name in _CHOOSING:
                found[name] = f"{found[name]}, {value}" if name in found else value
        section.file_conditions = found
    return section.file_conditions


def given_fields(response: Response) -> list[tuple[str, str]]:
    """The fields that a handler gave, without those that only the file can know. Raises `ValueError`, `TypeError`."""
    return [(name, value) for name, value in lines_of(response.fields) if name.lower() not in _REPLACED]


def _vary_too(given: list[tuple[str, str]], fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The given fields, whose Vary names what the file's own names, too."""
    headers = ResponseHeaders(given)
    headers.vary(*(part.strip() for name, value in fields if name.lower() == "vary" for part in value.split(",")))
    return list(headers.items())


def _without_content(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [field for field in fields if field[0].lower() not in _OF_CONTENT]


def _current(validators: Validators, given: Iterable[tuple[str, str]]) -> Validators:
    """The validators that are sent: the handler's own before the file's."""
    etag, modified = validators
    for name, value in given:
        match name.lower():
            case "etag":
                etag = value
            case "last-modified":
                modified = parse_date(value)
    return Validators(etag, modified)


def refused(error: HTTPError, given: Iterable[tuple[str, str]], request: Request) -> Response:
    """The refusal of a request for a file, with what its handler gave but what describes content."""
    response = problem(error, request.id)
    response.headers = _without_content(given)
    return response
