"""The extensions of ASGI's HTTP specification that an answer may use: files, trailer fields, early hints."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from hypoll.asgi.start import Message, ResponseStart, field_lines, trailer_lines
from hypoll.protocol.files import open_regular
from hypoll.protocol.messages import HTTPError
from hypoll.protocol.slices import FilePart

if TYPE_CHECKING:
    from hypoll.asgi.cycle import Cycle


EARLY_HINT = "http.response.early_hint"


async def send_path(cycle: Cycle, message: Message) -> None:
    """Send a file by its path, as the whole body (http.response.pathsend).

    Raises:
        RuntimeError: When some of a body was sent.
        OSError: When it can't be opened.
        ValueError: When it is no regular file, or its size isn't what is declared.
    """
    if cycle.stream is not None:
        raise RuntimeError("http.response.pathsend can't be sent here: some of the body was sent")
    path = message.get("path")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"the path of http.response.pathsend is {path!r:.60}: it must be a str")
    path = os.fspath(path)
    try:
        fd, status = open_regular(path)
    except HTTPError:  # which would be the client's answer
        raise ValueError(f"{path} is no regular file") from None
    try:
        part = FilePart(fd, 0, status.st_size, path)
    finally:
        os.close(fd)
    await _send_part(cycle, part, more_body=False)


async def send_file(cycle: Cycle, message: Message) -> None:
    """Send what a descriptor leads to as a piece of the body (http.response.zerocopysend).

    Raises:
        ValueError: For what is no regular file, or has less than the piece is to have.
    """
    if cycle.awaits_trailers:
        raise RuntimeError("http.response.zerocopysend can't be sent here: the body is whole")
    await _send_part(cycle, _part_of(message), more_body=bool(message.get("more_body", False)))


async def _send_part(cycle: Cycle, part: FilePart, *, more_body: bool) -> None:
    """Send a part of a file as a piece of the body, and wait while the client is far behind."""
    start = _start_of(cycle)
    try:
        if cycle.stream is None and not more_body and not start.trailers:
            if start.declared not in (None, part.count) and start.has_content(cycle.request.method):
                raise ValueError(f"the answer declares {start.declared} bytes, its file has {part.count}")
            cycle.respond(start.response(part))
            return
        stream = cycle.begin()
        stream.put_file(part)
    except BaseException:
        part.release()
        raise
    if more_body:
        stream.flush()
        await cycle.drain_to_limit(stream)
    elif start.trailers:
        cycle.complete_body()
        stream.flush()
    else:
        await cycle.finish_body(b"" if stream.closed else stream.framer.end())


def _part_of(message: Message) -> FilePart:
    """The part of a file that a message tells of, from a descriptor of its own: the application closes the other."""
    file: Any = message.get("file")
    fd = file if type(file) is int else file.fileno() if hasattr(file, "fileno") else None
    if fd is None:
        raise TypeError(f"the file of http.response.zerocopysend is {file!r:.60}: it must have a descriptor")
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("the file of http.response.zerocopysend is no regular file")
    offset, count = message.get("offset"), message.get("count")
    if offset is None:
        offset = file.tell() if hasattr(file, "tell") else os.lseek(fd, 0, os.SEEK_CUR)
    there = max(status.st_size - offset, 0)
    count = there if count is None else count
    if offset < 0 or not 0 <= count <= there:
        raise ValueError(f"the file has {status.st_size} bytes: {count} from {offset} on can't be sent")
    name = getattr(file, "name", None)
    return FilePart(fd, offset, count, name if isinstance(name, str) else None)


async def send_trailers(cycle: Cycle, message: Message) -> None:
    """Send trailer fields behind the body, to a client that takes them (http.response.trailers).

    Raises:
        RuntimeError: When the start didn't tell of them, or the body isn't whole.
    """
    if not _start_of(cycle).trailers or not cycle.awaits_trailers:
        raise RuntimeError("http.response.trailers can't be sent here: a start tells of them, and the body comes first")
    cycle.trailer_lines += trailer_lines(message.get("headers"))
    if message.get("more_trailers", False):
        return
    stream = cycle.begin()
    end = b"" if stream.closed else stream.framer.end()
    if end and _takes_trailers(cycle):
        end = b"0\r\n%b\r\n" % cycle.trailer_lines
    await cycle.finish_body(end)


def _takes_trailers(cycle: Cycle) -> bool:
    """Whether the client has said so (RFC 9110, 6.5.1)."""
    for name, value in cycle.request.header_section.fields:
        if name == "te" and "trailers" in [option.partition(";")[0].strip().lower() for option in value.split(",")]:
            return True
    return False


async def send_early_hint(cycle: Cycle, message: Message) -> None:
    """Send an interim response of status 103 with Link fields (http.response.early_hint, RFC 8297).

    It is dropped where the settings don't allow it, the head has gone, or the client is one of HTTP/1.0.
    """
    links = message.get("links") or ()
    if isinstance(links, (str, bytes)) or not isinstance(links, Iterable):
        raise TypeError(f"the links of {EARLY_HINT} are {links!r:.60}: they must be bytes, one for each")
    links = list(links)
    for link in links:
        if not isinstance(link, bytes):
            raise TypeError(f"a link of {EARLY_HINT} is {link!r:.60}: it must be bytes")
    lines = field_lines((b"Link", link) for link in links)
    if lines and cycle.server.settings.early_hints:
        cycle.send_interim(b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % lines)


def _start_of(cycle: Cycle) -> ResponseStart:
    start = cycle.head
    assert start is not None
    return start


EXTENSIONS: dict[Any, Callable[[Cycle, Message], Awaitable[None]]] = {
    "http.response.pathsend": send_path,
    "http.response.zerocopysend": send_file,
    "http.response.trailers": send_trailers,
    EARLY_HINT: send_early_hint,
}
"""What takes an event, by its type, behind the start."""
