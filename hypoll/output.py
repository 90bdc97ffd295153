"""What waits for a peer: buffers to a non-blocking socket, in bounded steps. Plain functions over a list of buffers."""

from __future__ import annotations

import socket

JOIN_LIMIT = 64 * 1024
"""Answers up to this size are copied together for one send; larger ones go by sendmsg from where they are."""

SEND_SIZE = 256 * 1024
"""Bytes of the waiting output sent before the other connections have their turn. The kernel would take megabytes of a
large answer at once, and copies them while everybody waits."""

SENDMSG_BUFFERS = 64
"""Buffers given to one sendmsg; the kernel takes up to IOV_MAX, 1024."""

Buffers = list[bytes | memoryview]


def send_one(sock: socket.socket, output: Buffers, data: bytes) -> bool:
    """Send now; keep in `output`, empty so far, what the kernel doesn't take. False when some waits."""
    try:
        sent = sock.send(data)
    except BlockingIOError:
        sent = 0
    if sent == len(data):
        return True
    output.append(memoryview(data)[sent:])
    return False


def flush(sock: socket.socket, output: Buffers, flags: int = 0) -> int:
    """Send what waits until the kernel is full, all is sent, or it was `SEND_SIZE`. Gives the bytes sent.

    flags: of sendmsg(2).
    """
    total = 0
    while output and total < SEND_SIZE:
        offered = _up_to(SEND_SIZE - total, output)
        try:
            sent = sock.sendmsg(offered, (), flags)
        except BlockingIOError:
            break
        drop(output, sent)
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


def drop(buffers: Buffers, count: int) -> None:
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
