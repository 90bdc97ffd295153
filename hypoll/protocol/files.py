"""Files as answers: `File`, what a request makes of one, and the descriptors it is sent from.

Laws: a descriptor belongs to one `OpenFile`, is closed with it, and lives as long as anything may still send from it.
Nothing is read here but for `Slice.read`; nothing waits, whatever the path leads to. A path is looked at anew for
each answer, so that a file that was replaced or changed is noticed.
"""

from __future__ import annotations

import errno
import itertools
import mimetypes
import os
import stat
import time
from collections.abc import Callable, Generator, Hashable, Iterable
from email.utils import formatdate

from hypoll.protocol.conditional import CONDITIONS, Outcome, Validators, decide, parse_date
from hypoll.protocol.disposition import content_disposition
from hypoll.protocol.fields import ResponseHeaders, check_field, lines_of
from hypoll.protocol.messages import HTTPError, Request, Response, problem

OPEN_FILES = 128
"""Descriptors kept open for the next request that asks for the same files."""

IDLE_TIME = 10.0
"""Seconds after which a file that nobody asks for isn't kept open: a deleted one holds its space until then."""

PIECE_SIZE = 64 * 1024
"""Bytes of a piece of a `Slice` that is iterated over."""

# O_NONBLOCK: opening a FIFO must not wait for its writer. O_NOCTTY: a terminal must not become the process's own.
OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

MISSING = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO))
"""Errors of open(2) that say that a path leads to no file: 404."""

_FORBIDDEN = frozenset((errno.EACCES, errno.EPERM))
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE))

_CODED_TYPES = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}

_REPLACED = frozenset(("content-length", "content-range"))
"""Fields of a handler's response that the file knows better."""

_OF_CONTENT = frozenset(
    ("content-type", "content-encoding", "content-language", "content-disposition", "accept-ranges", *_REPLACED)
)
"""Fields that describe content, which an answer without it doesn't have (RFC 9110, 15.4.5)."""


_CHOOSING = CONDITIONS | {"accept-encoding"}


class TruncatedError(Exception):
    """A file has become shorter than the part of it that was promised: the connection must be cut."""


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
        self.validators = _validators(status, coding)
        self.fields = [*_described(self.validators, time.time()), *fields]
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
        given = _given(response)
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
                return _refused(changed, given, request)
            case Outcome.UNSATISFIABLE:
                beyond = HTTPError(416, f"the range begins beyond the {self.size} bytes of the file")
                refused = _refused(beyond, given, request)
                refused.set_header("Content-Range", f"bytes */{self.size}")
                return refused
            case Outcome.UNCHANGED:
                return Response(b"", 304, _without_content(fields))
            case Outcome.PART:
                last = span.offset + span.size - 1
                fields.append(("Content-Range", f"bytes {span.offset}-{last}/{self.size}"))
        return Response(Slice(self, *span), outcome.value, fields, content_type)


def _validators(status: os.stat_result, coding: str | None) -> Validators:
    # Neither inode nor device: the same file on two servers has the same tag.
    mark = "" if coding is None else f"-{coding}"
    return Validators(f'"{status.st_mtime_ns:x}-{status.st_size:x}{mark}"', int(status.st_mtime_ns // 10**9))


def _described(validators: Validators, now: float) -> list[tuple[str, str]]:
    fields = [("ETag", validators.etag or ""), ("Accept-Ranges", "bytes")]
    modified = validators.modified or 0
    if modified <= now:  # one in the future must not be sent (RFC 9110, 8.8.2.1)
        fields.insert(0, ("Last-Modified", formatdate(modified, usegmt=True)))
    return fields


class Slice:
    """Bytes of an open file that are to be sent: the body of a response.

    Attributes:
        fd, offset, count: what is left of them. `send` and `read` take from the beginning.
    """

    __slots__ = ("_file", "count", "fd", "offset")

    def __init__(self, file: OpenFile, offset: int, count: int) -> None:
        self._file: OpenFile | None = file
        self.fd = file.fd
        self.offset = offset
        self.count = count

    @property
    def path(self) -> str | None:
        """Where the file was found, if that is known."""
        return None if self._file is None else self._file.path

    def probe(self) -> None:
        """Raise what reading the file raises, with its name; nothing is taken."""
        try:
            os.pread(self.fd, 1, self.offset)
        except OSError as error:
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        return error if error.filename or self.path is None else OSError(error.errno, error.strerror, self.path)

    def send(self, socket: int, size: int) -> int:
        """Send up to `size` bytes through the socket of this descriptor by sendfile(2); give how many were taken.

        Raises:
            BlockingIOError: When the socket takes none.
            TruncatedError: When the file has none any more.
        """
        return self._on_taken(os.sendfile(socket, self.fd, self.offset, min(size, self.count)))

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, where sendfile can't be used. Raises `TruncatedError`."""
        try:
            data = os.pread(self.fd, min(size, self.count), self.offset)
        except OSError as error:
            raise self._named(error) from error
        self._on_taken(len(data))
        return data

    def _on_taken(self, count: int) -> int:
        if not count and self.count:
            name = self.path or "a file"
            raise TruncatedError(
                f"{name} became shorter while it was sent: {self.count} bytes of the answer are missing"
            )
        self.offset += count
        self.count -= count
        return count

    def __iter__(self) -> Generator[bytes]:
        """What is left, in pieces, for whom an iterator of bytes is a body. Raises `TruncatedError`."""
        while self.count:
            yield self.read(PIECE_SIZE)

    def release(self) -> None:
        """Let go of the file: nothing more is sent. Doing so twice does nothing."""
        self._file = None
        self.fd = -1

    close = release


class FilePart(Slice):
    """What is to be sent of an application's file, from a descriptor of its own: the application may close the file."""

    __slots__ = ("_path",)

    def __init__(self, fd: int, offset: int, count: int, path: str | None) -> None:
        self._file = None
        self._path = path
        self.fd = os.dup(fd)
        self.offset = offset
        self.count = count

    @property
    def path(self) -> str | None:
        """The name that the application opened the file by, if it is known."""
        return self._path

    def release(self) -> None:
        """Close the descriptor, once."""
        fd = self.fd
        super().release()
        if fd >= 0:
            os.close(fd)

    close = release

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # By a name of its own: at the interpreter's end modules are emptied.
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            close(fd)


class OpenFiles:
    """Files kept open by a key, as nginx's open_file_cache does: a request for one of them costs a stat(2).

    One that isn't asked for in `IDLE_TIME` is let go within twice that. limit: how many are kept, at most.
    """

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self.limit = limit
        # Two generations: a file that is asked for is in the young one. No use of a file costs a clock or a list.
        self._young: dict[Hashable, OpenFile] = {}
        self._old: dict[Hashable, OpenFile] = {}
        self._rotated = 0.0

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Hashable) -> OpenFile | None:
        """The file kept by this key, if its path still leads to it."""
        file = self._young.get(key)
        if file is None:
            file = self._old.pop(key, None)
            if file is None:
                return None
            self.put(key, file)
        if file.is_current():
            return file
        self._young.pop(key, None)
        return None

    def put(self, key: Hashable, file: OpenFile) -> OpenFile:
        """Keep a file; gives it back."""
        if len(self._young) >= self.limit // 2:
            self.rotate()
        if self.limit > 1:
            self._young[key] = file
        return file

    def tick(self, now: float) -> None:
        """Let go of what wasn't asked for lately: to be called about once a second, with a clock's seconds."""
        if abs(now - self._rotated) >= IDLE_TIME:
            self._rotated = now
            self.rotate()

    def rotate(self) -> None:
        """Let go of what wasn't asked for since the last time."""
        self._old = self._young
        self._young = {}

    def clear(self) -> None:
        """Let go of all."""
        self._young = {}
        self._old = {}


FILES = OpenFiles()
"""The open files of this process."""


def open_regular(path: str, directory: int | None = None, flags: int = 0) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; give its descriptor and status.

    Args:
        path: of the file.
        directory: the descriptor of the directory that a relative path begins at.
        flags: of open(2), beside `OPEN_FLAGS`.

    Raises:
        HTTPError: 404 for anything else.
        OSError: As open(2) does: ELOOP for a link with O_NOFOLLOW.
    """
    # Looked at before it is opened: opening a device or a FIFO may have effects. Looked at again after: it may have
    # been exchanged between.
    mode = os.stat(path, dir_fd=directory, follow_symlinks=not flags & os.O_NOFOLLOW).st_mode
    if not stat.S_ISREG(mode):
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise not_found()
    fd = os.open(path, OPEN_FLAGS | flags, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise not_found()
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def not_found() -> HTTPError:
    """The refusal where no file is, whatever else may be there."""
    return HTTPError(404, "there is no file at this path")


def find(key: Hashable, make: Callable[[], OpenFile]) -> OpenFile:
    """The file kept by a key, if its path still leads to it; else the one that `make` opens, to be kept from now on.

    Raises:
        HTTPError: 404 when there is none and 403 when it may not be read.
        OSError: For the server's own troubles.
    """
    file = FILES.get(key)
    if file is None:
        try:
            file = FILES.put(key, _opened(make))
        except UnicodeEncodeError:
            raise not_found() from None  # no name the file system could have
        except OSError as error:
            if error.errno in MISSING:
                raise not_found() from None
            if error.errno in _FORBIDDEN:
                raise HTTPError(403, "the server may not read the file at this path") from None
            raise
    return file


def _opened(make: Callable[[], OpenFile]) -> OpenFile:
    try:
        return make()
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        FILES.clear()  # what is kept to be fast gives way to what is asked for
        return make()


def guess_type(path: str) -> str:
    """The Content-Type of a file by its name, as `mimetypes` has it; text is UTF-8, and octets what is unknown."""
    # It takes URLs, and believes those of the data scheme: with a slash before it a name is none.
    kind, coding = mimetypes.guess_type("/" + os.path.basename(path))
    if coding is not None:
        return _CODED_TYPES.get(coding, "application/octet-stream")  # x.tar.gz is gzip: nobody is to unpack it underway
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


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


class File:
    """A file as a handler's answer, or as the body of a `Response`::

        @routes.get("/terms")
        def terms(request):
            return File("terms.pdf")

    It is opened when the handler has returned: `HTTPError` 404 where no regular file is, 403 where it may not be read.
    GET and HEAD are answered as their conditions and their Range ask (RFC 9110, sections 13 and 14). The fields of the
    `Response` are sent, too; its own ETag or Last-Modified stands in place of the file's. One with another status than
    200 has the whole file.

    Args:
        path: where it is; a relative one is below the working directory of the process. Whoever lets a client choose a
            part of it wants `routes.static` instead.
        content_type: the Content-Type. Default: by the name's ending, application/octet-stream if that says nothing.
        filename: the name that browsers save it under, of whatever characters: see `Response.set_filename`. None: they
            show it, if they can, and take the name from the URL.
        inline: whether browsers show it, if they can, though it has a `filename`.

    Raises:
        TypeError: For a path or name that is no str.
        ValueError: For a name that is empty.
    """

    __slots__ = ("content_type", "disposition", "path")

    def __init__(
        self,
        path: str | os.PathLike[str],
        content_type: str | None = None,
        *,
        filename: str | None = None,
        inline: bool = False,
    ) -> None:
        self.disposition = None if filename is None else content_disposition(filename, inline=inline)
        self.path = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"File takes its path as str or PathLike of str, not {self.path!r}")
        self.content_type = content_type

    def __repr__(self) -> str:
        return f"File({self.path!r})"

    def open(self) -> OpenFile:
        """The file as it is now. Raises `HTTPError` and `OSError` as `find` does."""
        return find((self.path, self.content_type), self._open)

    def _open(self) -> OpenFile:
        if "\0" in self.path:
            raise not_found()
        fd, status = open_regular(self.path)
        content_type = guess_type(self.path) if self.content_type is None else self.content_type
        return OpenFile(self.path, fd, status, content_type)

    def whole(self, request: Request) -> OpenFile | None:
        """As `OpenFile.whole`, None where there is no file."""
        try:
            return self.open().whole(request)
        except HTTPError:
            return None

    def respond(self, request: Request, response: Response) -> Response:
        """As `OpenFile.respond`, with the refusal of `find` where there is no file."""
        try:
            file = self.open()
        except HTTPError as error:
            return _refused(error, _given(response), request)
        return file.respond(request, self.described(response))

    def described(self, response: Response) -> Response:
        """A response with this file's name, if it has one and the response says nothing of it itself."""
        if self.disposition is None or (response.fields is not None and "content-disposition" in response.fields):
            return response
        described = response.copy()
        described.headers["Content-Disposition"] = self.disposition
        return described


def _given(response: Response) -> list[tuple[str, str]]:
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


def _refused(error: HTTPError, given: Iterable[tuple[str, str]], request: Request) -> Response:
    response = problem(error, request.id)
    response.headers = _without_content(given)
    return response
