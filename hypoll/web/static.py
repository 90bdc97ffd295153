"""`Static`: the files below a directory, by the path of a request. What lies outside can't be reached.

Laws: a path is taken apart into names before the file system sees it. Each directory is opened by its name in the one
before, and links are resolved here, so that no exchange of a directory or link under way leads out. What is refused is
not found, so that nobody learns what is there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import lru_cache, partial

from hypoll.protocol.conditional import preferred
from hypoll.protocol.fields import check_field
from hypoll.protocol.files import FILES, find, guess_type, not_found, open_regular
from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.protocol.open_file import OpenFile, conditions_of
from hypoll.web.navigation import is_navigation
from hypoll.web.routing import RouteError
from hypoll.web.slashes import redirect

LINKS = 40
"""Symbolic links followed on one way, as path_resolution(7) has it."""

SUFFIXES = {"br": ".br", "gzip": ".gz"}
"""The content codings that a file may lie there in, beside itself, and what their names end with. The dearest first."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINKED = (errno.ELOOP, errno.ENOTDIR)
_REMEMBERED = 256
"""Characters of an Accept-Encoding that is remembered with what it prefers."""


class Static:
    """Answers with the files below a directory; what `routes.static` declares as its handler.

    Regular files only: a directory, a device, a FIFO or a socket is not found, nor is a name that begins with a dot.
    A symbolic link is followed unless it leads out of the directory.

    Args:
        directory: a directory that exists; it may be, or be reached by, a symbolic link.
        cache_control: the Cache-Control of every file, as in `public, max-age=3600`. None: it has none.
        precompressed: whether `name.br` and `name.gz` stand for `name` to those whose Accept-Encoding prefers them.
        index: the name of the file that is the page of a directory; its path without the slash is redirected to it.
        fallback: the path of the file that is the page of every path that has no file: of an application whose paths
            the browser knows. See `is_navigation`. Both are sent with `Cache-Control: no-cache`: what they say
            changes, and their names don't.

    Raises:
        RouteError: For a directory or fallback that there isn't, and for a Cache-Control that can't be sent.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        cache_control: str | None = None,
        precompressed: bool = True,
        index: str | None = None,
        fallback: str | None = None,
    ) -> None:
        self.directory = os.path.abspath(os.fspath(directory))
        if not os.path.isdir(self.directory):
            raise RouteError(f"static files: {self.directory} is no directory")
        self._fields: list[tuple[str, str]] = []
        if cache_control is not None:
            self._fields.append(("Cache-Control", cache_control))
        if precompressed:
            self._fields.append(("Vary", "Accept-Encoding"))
        try:
            self._fields = [check_field(*field) for field in self._fields]
        except (TypeError, ValueError) as error:
            raise RouteError(f"static files: {error}") from None
        self._precompressed = precompressed
        self.index, self.fallback = index, fallback
        if index is not None and (not index or "/" in index):
            raise RouteError(f"static files: index is the name of a file, as 'index.html', not {index!r}")
        if fallback is not None and not self._is_there(fallback):
            raise RouteError(f"static files: there is no fallback {fallback!r} in {self.directory}")

    def __repr__(self) -> str:
        return f"Static({self.directory!r})"

    def __call__(self, request: Request, path: str) -> Response:
        """Answer with the file at `path`, below the directory. Raises `HTTPError` 404, or 403 if it can't be read."""
        try:
            file = self._find(path, None)
        except HTTPError as error:
            page = self._page_of(path) if error.status == 404 else None
            if page is not None and path and not path.endswith("/"):  # from here the page's links would lead astray
                return redirect(request, request.target.partition(b"?")[0] + b"/")
            if page is None and (self.fallback is None or error.status != 404 or not is_navigation(request, path)):
                raise
            path = page or self.fallback or ""
            file = self._find(path, None)
        if self._precompressed:
            accepted = conditions_of(request).get("accept-encoding")
            if accepted:
                file = self._find_coded(path, accepted) or file
        return Response(file)

    @property
    def has_pages(self) -> bool:
        """Whether paths that are no files have pages."""
        return self.index is not None or self.fallback is not None

    def has(self, path: str) -> bool:
        """Whether there is a file at this path, or the page of a directory."""
        return self._is_there(path) or self._page_of(path) is not None

    def _is_there(self, path: str) -> bool:
        try:
            self._find(path, None)
        except HTTPError as error:
            return error.status != 404
        return True

    def _page_of(self, path: str) -> str | None:
        """The path of a directory's page; None: it has none, or `path` is no directory."""
        if self.index is None:
            return None
        page = f"{path}{self.index}" if not path or path.endswith("/") else f"{path}/{self.index}"
        return page if self._is_there(page) else None

    def _is_page(self, path: str) -> bool:
        return path == self.fallback or path.rpartition("/")[2] == self.index

    def _find(self, path: str, coding: str | None) -> OpenFile:
        key = (self, path, coding)
        # The hot path: a path that led to a file before needs no second look at its names.
        return FILES.get(key) or find(key, partial(self._open, path, coding))

    def _find_coded(self, path: str, accepted: str) -> OpenFile | None:
        """The most wanted form of a file that lies there."""
        for coding in _remembered(accepted) if len(accepted) <= _REMEMBERED else preferred(accepted, SUFFIXES):
            if os.path.isfile(self._location(path, coding)):  # few files have any
                try:
                    return self._find(path, coding)
                except HTTPError:
                    continue
        return None

    def _open(self, path: str, coding: str | None) -> OpenFile:
        names = path.split("/")
        for name in names:
            if not name or name.startswith(".") or "\0" in name:
                raise not_found()
        if coding is not None:
            names[-1] += SUFFIXES[coding]
        fd, status = open_beneath(self.directory, names)
        fields = self._fields
        if self._is_page(path):
            fields = [("Cache-Control", "no-cache"), *(field for field in fields if field[0] != "Cache-Control")]
        return OpenFile(self._location(path, coding), fd, status, guess_type(path), fields, coding)

    def _location(self, path: str, coding: str | None) -> str:
        return f"{self.directory}/{path}" + ("" if coding is None else SUFFIXES[coding])


@lru_cache(256)
def _remembered(accepted: str) -> list[str]:
    return preferred(accepted, SUFFIXES)


def open_beneath(directory: str, names: Iterable[str]) -> tuple[int, os.stat_result]:
    """Open the regular file that `names` lead to from a directory, as openat2(2) does with RESOLVE_BENEATH.

    Gives its descriptor and status. Raises `HTTPError` 404 for what leads out or to something else, `OSError` as
    open(2) does.
    """
    walk = _Walk(directory)
    try:
        return walk.open(names)
    finally:
        walk.close()


class _Walk:
    """The way down from a directory: the descriptors of the directories that it led through."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._through = [os.open(directory, _DIRECTORY)]
        self._links = 0

    def open(self, names: Iterable[str]) -> tuple[int, os.stat_result]:
        waiting = [*names][::-1]
        while waiting:
            name = waiting.pop()
            if name in ("", "."):  # of a link
                continue
            if name == "..":
                self._leave()
                continue
            try:
                if not waiting:
                    return open_regular(name, self._through[-1], os.O_NOFOLLOW)
                self._through.append(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._through[-1]))
            except OSError as error:
                if error.errno not in _LINKED:
                    raise
                waiting += self._follow(name)
        raise not_found()  # a directory

    def _leave(self) -> None:
        """Go up, which never passes the directory that the way began at: the kernel's `..` could."""
        if len(self._through) == 1:
            raise not_found()
        os.close(self._through.pop())

    def _follow(self, name: str) -> list[str]:
        """The names that a link leads through, the last first."""
        self._links += 1
        try:
            target = os.readlink(name, dir_fd=self._through[-1])
        except OSError:
            raise not_found() from None  # no link: a file where a directory should be
        if self._links > LINKS:
            raise not_found()
        if target.startswith("/"):
            target = self._inside(target)
            self._return()
        return target.split("/")[::-1]

    def _inside(self, target: str) -> str:
        """An absolute target as seen from the directory."""
        for directory in (self._directory, os.path.realpath(self._directory)):
            beginning = directory.rstrip("/") + "/"
            if target.startswith(beginning):
                return target[len(beginning) :]
        raise not_found()

    def _return(self) -> None:
        while len(self._through) > 1:
            os.close(self._through.pop())

    def close(self) -> None:
        self._return()
        os.close(self._through[0])
