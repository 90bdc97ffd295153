"""Listening sockets: TCP v4 and v6, unix, inherited."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable
from typing import Any

from hypoll.proxy.networks import parse_address
from hypoll.settings import Settings

SO_ATTACH_FILTER = 26
"""asm-generic/socket.h; the socket module doesn't name it."""

MAX_INT = 2**31 - 1
"""Of C: the greatest descriptor and the longest queue."""

UNSENT_SIZE = 128 * 1024
"""Bytes the kernel takes beyond what the peer has room for (tcp(7), TCP_NOTSENT_LOWAT): a peer that doesn't read holds
these, not the megabytes its send buffer would grow to."""

FIRST_ACTIVATED = 3
"""The first descriptor that a service manager passes (sd_listen_fds(3), SD_LISTEN_FDS_START)."""


class BindError(Exception):
    """An address can't be listened on; the message says why and what to do."""


def listen(address: str, settings: Settings) -> socket.socket:
    """A listening, non-blocking socket for `HOST:PORT`, `[::1]:PORT`, `unix:/PATH` or `fd://N`.

    Raises `BindError`.
    """
    try:
        if address.startswith("unix:"):
            return _listen_unix(_path(address), settings)
        if address.startswith("fd://"):
            return _inherit(address.removeprefix("fd://"))
        return _listen_tcp(address, settings)
    except OSError as error:
        raise BindError(f"can't listen on {address}: {_advice(error, address)}") from error


def _advice(error: OSError, address: str) -> str:
    match error.errno:
        case errno.EADDRINUSE if address.startswith("unix:") and not _is_socket(_path(address)):
            return "there is a file that is no socket. Remove it, or bind another path"
        case errno.ENOENT:
            return "its directory doesn't exist. Make it, or bind another path"
        case errno.EADDRINUSE:
            return "the address is in use. Stop what listens there, or bind another"
        case errno.EBADF | errno.ENOTSOCK:
            return f"{os.strerror(error.errno)}. Give the number of a listening socket that was inherited"
        case errno.EACCES if not address.startswith("unix:"):
            return "permission denied. Ports below 1024 need CAP_NET_BIND_SERVICE: bind another"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address. Use 0.0.0.0 or [::] for all of its addresses"
        case socket.EAI_NONAME | socket.EAI_AGAIN:
            return "the host's name has no address. Use one of this machine's addresses, 0.0.0.0 or [::] for all"
        case _:
            return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _listen_tcp(address: str, settings: Settings) -> socket.socket:
    family, target = _resolve(*_host_and_port(address))
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # So that [::] and 0.0.0.0 can be bound beside each other.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(target)
        listener.listen(_backlog(settings))
    except OSError:
        listener.close()
        raise
    return prepare(listener)


def resolved(address: str) -> str:
    """`HOST:PORT` with the address of the host in its place. Raises `BindError`."""
    try:
        family, target = _resolve(*_host_and_port(address))
    except OSError as error:
        raise BindError(f"can't listen on {address}: {_advice(error, address)}") from error
    host, port = target[:2]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """An address of a host and a port, and its family: the first of IPv4, as gunicorn has it, or else of IPv6."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # of the idna codec: a label that is empty or longer than 63 characters
        raise BindError(f"{host!r} is no host name. It can't be listened on: give an address, as 0.0.0.0") from None
    family, _, _, _, target = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, target


def _backlog(settings: Settings) -> int:
    """As an int of C; net.core.somaxconn bounds it much lower (listen(2))."""
    return min(settings.backlog, MAX_INT)


def unix_paths(addresses: Iterable[str]) -> list[str]:
    """The paths among addresses that sockets are made at, which are removed when they are closed."""
    return [_path(address) for address in addresses if address.startswith("unix:")]


def _path(address: str) -> str:
    return address.removeprefix("unix:").removeprefix("//")


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.stat(path).st_mode)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if colon and port.isdecimal() and int(port) > 65535:
        raise BindError(f"{address!r} is no address: give HOST:PORT with a port of 65535 at most")
    if not colon or not port.isdecimal() or (":" in host and not bracketed):
        raise BindError(f"{address!r} is no address: give HOST:PORT, [::1]:PORT, unix:/PATH or fd://N")
    return (host[1:-1] if bracketed else host), int(port)


def _listen_unix(path: str, settings: Settings) -> socket.socket:
    if not path:
        raise BindError("unix: needs a path, as in unix:/run/hypoll.sock")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(_backlog(settings))
    except OSError:
        listener.close()
        raise
    return prepare(listener)


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that is gone. One that still answers is left, and binding then fails."""
    try:
        if not _is_socket(path):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            pass  # its queue is full: someone is there


def _inherit(number: str) -> socket.socket:
    if not number.isdecimal() or int(number) > MAX_INT:
        raise BindError(f"fd://{number} names no descriptor: give its number, as in fd://3")
    listener = socket.socket(fileno=int(number))
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise BindError(f"descriptor {number} is not a listening stream socket")
    listener.set_inheritable(False)
    return prepare(listener)


def activated() -> tuple[str, ...]:
    """The addresses of the sockets that socket activation has handed to this process (sd_listen_fds(3)), once.

    The variables that name them are taken out of the environment: they aren't for the children. Raises `BindError`.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = os.environ.pop("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if not count.isdecimal() or int(count) > MAX_INT - FIRST_ACTIVATED:
        raise BindError(f"LISTEN_FDS is {count!r}: it must be the number of sockets passed (sd_listen_fds(3))")
    return tuple(f"fd://{FIRST_ACTIVATED + index}" for index in range(int(count)))


def prepare(listener: socket.socket) -> socket.socket:
    """Make a listening socket fit for the loop."""
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        # Accepted sockets inherit it: no system call for each.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_SIZE)
    return listener


def refuse_new(listener: socket.socket) -> None:
    """Have the kernel drop what asks for a new connection, so that the queue of a listener can be emptied for good.

    Closing a listener resets what waits in its queue, also what came after the last look. Who is dropped asks again
    within a second, and is then refused, or finds the next server. Not for a listener shared with other processes.
    """
    # Classic BPF over the TCP header: load the flags, drop what has SYN, pass all else (socket(7), SO_ATTACH_FILTER).
    program = (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    with contextlib.suppress(OSError):  # a unix socket has none, a sandbox may forbid it: then it is as without
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
        )


def server_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port of a listener, to name the server by where a client doesn't: ("", 0) of a unix socket's.

    Who listens on all of this machine's addresses has the name of the machine.
    """
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return "", 0
    address = parse_address(name[0])
    if address is None or address.is_unspecified:
        return socket.gethostname(), name[1]
    return str(address), name[1]


def address_of(sock: socket.socket, scheme: str = "http") -> str:
    """Where a listener listens, as a client would write it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[0], name[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
