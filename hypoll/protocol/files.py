"""Files as answers: `File`, and the files that are kept open.

Laws: nothing waits, whatever a path leads to. A path is looked at anew for each answer, so that a file that was
replaced or changed is noticed.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import stat
from collections.abc import Callable, Hashable

from hypoll.protocol.disposition import content_disposition
from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.protocol.open_file import OpenFile, given_fields, refused

OPEN_FILES = 128
"""Descriptors kept open for the next request that asks for the same files."""

IDLE_TIME = 10.0
"""Seconds after which a file that nobody asks for isn't kept open: a deleted one holds its space until then."""

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
            return refused(error, given_fields(response), request)
        return file.respond(request, self.described(response))

    def described(self, response: Response) -> Response:
        """A response with this file's name, if it has one and the response says nothing of it itself."""
        if self.disposition is None or (response.fields is not None and "content-disposition" in response.fields):
            return response
        described = response.copy()
        described.headers["Content-Disposition"] = self.disposition
        return described
