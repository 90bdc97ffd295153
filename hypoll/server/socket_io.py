"""What waits for a peer: buffers to a non-blocking socket, in bounded steps. Plain functions over a list of buffers."""

from __future__ import annotations

import ctypes
import os
import socket

JOIN_LIMIT = 64 * 1024
"""Answers up to this size are copied together for one send; larger ones go by sendmsg from where they are."""

SEND_SIZE = 256 * 1024
"""Bytes of the waiting output sent before the other connections have their turn. The kernel would take megabytes of a
large answer at once, and copies them while everybody waits."""

TAIL_SIZE = 16 * 1024
"""What goes along where no more than that would be left for another turn."""

SENDMSG_BUFFERS = 64
"""Buffers given to one sendmsg; the kernel takes up to IOV_MAX, 1024."""

_libc = ctypes.CDLL(None)

TRIM_THRESHOLD = 16 * 1024 * 1024
"""Bytes at the heap's end that the allocator keeps for what comes next."""

MMAP_THRESHOLD = 4 * 1024 * 1024
"""Bytes from which on it takes memory from the kernel for each piece by itself."""

Buffers = list[bytes | memoryview]


def keep_freed_memory() -> None:
    """Have glibc's allocator keep what large bodies took for the next ones (mallopt(3)), unless the environment says.

    By default it gives most of that back after each: filling it anew is the larger part of what a MiB costs.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(_libc, "mallopt", None)  # others than glibc have none
    if mallopt is not None:
        mallopt(-1, TRIM_THRESHOLD)
        mallopt(-3, MMAP_THRESHOLD)


class PeerGone(Exception):  # noqa: N818 - it isn't an error here
    """The kernel says that the connection is of no use any more; the cause is what it said."""


def receive(sock: socket.socket, size: int) -> bytes | None:
    """Receive at most `size` bytes; None: none are here. Raises `PeerGone`."""
    try:
        return sock.recv(size)
    except BlockingIOError:
        return None
    except OSError as error:
        raise PeerGone from error


def reset(sock: socket.socket) -> None:
    """Have TCP end the connection by a reset, also where a forked child holds a copy of the descriptor.

    connect(2) to AF_UNSPEC dissolves the association: the kernel sends RST at once (tcp_disconnect). SO_LINGER of no
    seconds would do so only with the last copy. Over other families it does nothing.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _libc.connect(sock.fileno(), bytes(16), 16)


def send_one(sock: socket.socket, output: Buffers, data: bytes) -> bool:
    """Send now; keep in `output`, empty so far, what the kernel doesn't take. False when some waits.

    Raises `PeerGone`.
    """
    try:
        sent = sock.send(data)
    except BlockingIOError:
        sent = 0
    except OSError as error:
        raise PeerGone from error
    if sent == len(data):
        return True
    output.append(memoryview(data)[sent:])
    return False


def flush(sock: socket.socket, output: Buffers, size: int, flags: int = 0) -> int:
    """Send what waits until the kernel is full, all is sent, or it was `size`. Gives the bytes sent.

    Args:
        sock: where to.
        output: what waits; what was sent is taken out.
        size: up to `TAIL_SIZE` more are sent where that is all.
        flags: of sendmsg(2).
    """
    total = 0
    waiting = sum(map(len, output))
    if waiting <= size + TAIL_SIZE:
        size = waiting
    while output and total < size:
        offered = output[:SENDMSG_BUFFERS] if size == waiting else _up_to(size - total, output)
        try:
            sent = sock.sendmsg(offered, (), flags)
        except BlockingIOError:
            break
        except OSError as error:
            raise PeerGone from error
        discard_sent(output, sent)
        total += sent
        if sent < sum(map(len, offered)):
            break  # the kernel is full
    return total


def _up_to(size: int, buffers: Buffers) -> Buffers:
    """What one sendmsg is given of the buffers: at most `size` bytes."""
    chosen: Buffers = []
    for buffer in buffers[:SENDMSG_BUFFERS]:
        chosen.append(buffer if len(buffer) <= size else memoryview(buffer)[:size])
        size -= len(buffer)
        if size <= 0:
            break
    return chosen


def discard_sent(buffers: Buffers, count: int) -> None:
    """Take the first `count` bytes away."""
    whole = 0
    for buffer in buffers:
        if count < len(buffer):
            break
        count -= len(buffer)
        whole += 1
    del buffers[:whole]
    if count:
        buffers[0] = memoryview(buffers[0])[count:]
