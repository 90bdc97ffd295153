"""Listening sockets: every form of address, and what is said when one can't be had."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.server.sockets import BindError, activated, address_of, listen, refuse_new
from hypoll.settings import Settings
from tests.support.leftovers import open_descriptors, settled_descriptors


@pytest.fixture
def bind() -> Iterator[Callable[..., socket.socket]]:
    """`listen`, whose sockets are closed after the test."""
    opened: list[socket.socket] = []

    def bind(address: str, **settings: Any) -> socket.socket:
        sock = listen(address, Settings(**settings))
        opened.append(sock)
        return sock

    yield bind
    for sock in opened:
        sock.close()


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1:0", "http://127.0.0.1:{}"), ("localhost:0", "http://"), ("[::1]:0", "http://[::1]:{}")],
)
def test_tcp(bind, address, shown):
    listener = bind(address)
    assert address_of(listener).startswith(shown.format(port_of(listener)))
    assert listener.getblocking() is False
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert not listener.get_inheritable()
    with socket.create_connection(listener.getsockname()[:2], 5):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_empty_host_is_every_address(bind):
    assert bind(":0").getsockname()[0] in ("0.0.0.0", "::")


def test_both_families_beside_each_other(bind):
    port = port_of(bind("0.0.0.0:0"))
    assert port_of(bind(f"[::]:{port}")) == port


def test_the_backlog_is_given_to_the_kernel(bind, monkeypatch, tmp_path):
    given: list[int] = []
    monkeypatch.setattr(socket.socket, "listen", lambda self, backlog: given.append(backlog))
    bind("127.0.0.1:0", backlog=77)
    bind("127.0.0.1:0")
    bind(f"unix:{tmp_path / 's'}", backlog=2**40)
    assert given == [77, 4096, 2**31 - 1]


def test_reuse_port_lets_two_listen(bind):
    first = bind("127.0.0.1:0", reuse_port=True)
    second = bind(f"127.0.0.1:{port_of(first)}", reuse_port=True)
    assert port_of(first) == port_of(second)


def test_an_address_in_use(bind):
    port = port_of(bind("127.0.0.1:0"))
    with pytest.raises(BindError, match=f"can't listen on 127.0.0.1:{port}: the address is in use.*bind another"):
        bind(f"127.0.0.1:{port}")


def test_an_address_of_another_machine(bind):
    with pytest.raises(BindError, match=r"no such address. Use 0\.0\.0\.0"):
        bind("192.0.2.1:0")


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "."])
def test_a_host_that_is_no_name(bind, host):
    with pytest.raises(BindError, match=r"is no host name.*give an address"):
        bind(f"{host}:80")


def test_a_host_that_has_no_address(bind, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(BindError, match=r"name has no address\. Use one of this machine"):
        bind("nowhere.invalid:80")


@pytest.mark.parametrize(
    ("address", "advice"),
    [("127.0.0.1:80", "Ports below 1024 need CAP_NET_BIND_SERVICE"), ("unix:/x", "Permission denied")],
)
def test_no_permission(bind, monkeypatch, address, advice):
    def refuse(self: socket.socket, where: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(BindError, match=advice):
        bind(address)


@pytest.mark.parametrize(
    "address", ["8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:80", "127.0.0.1:-1", ""]
)
def test_what_is_no_address(bind, address):
    with pytest.raises(BindError, match="is no address: give HOST:PORT"):
        bind(address)


# unix sockets


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_unix_socket(bind, tmp_path, form):
    path = tmp_path / "s"
    listener = bind(form.format(path))
    assert address_of(listener) == f"unix:{path}"
    assert path.is_socket()
    assert listener.getblocking() is False


def test_the_file_of_a_server_that_is_gone_is_replaced(bind, tmp_path):
    path = tmp_path / "s"
    bind(f"unix:{path}").close()
    assert path.is_socket()
    listener = bind(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert listener.getsockname() == str(path)


def test_a_server_that_answers_keeps_its_file(bind, tmp_path):
    path = tmp_path / "s"
    bind(f"unix:{path}")
    with pytest.raises(BindError, match="in use"):
        bind(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_server_whose_queue_is_full_keeps_its_file_and_is_not_waited_for(bind, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(BindError, match="in use"):
                bind(f"unix:{path}")
    assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(bind, tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match=r"a file that is no socket\. Remove it, or bind another path"):
        bind(f"unix:{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("address", "advice"),
    [("unix:", "needs a path"), ("unix:/nowhere/at/all", "Make it, or bind"), ("unix:/" + "x" * 200, "too long")],
)
def test_a_path_that_cannot_be_had(bind, address, advice):
    with pytest.raises(BindError, match=advice):
        bind(address)


# inherited descriptors


def test_an_inherited_descriptor(bind):
    with socket.create_server(("127.0.0.1", 0)) as given:
        listener = bind(f"fd://{os.dup(given.fileno())}")
        assert listener.getsockname() == given.getsockname()
        assert listener.getblocking() is False
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_inherited_unix_socket(bind, tmp_path):
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(tmp_path / "s"))
        given.listen()
        assert address_of(bind(f"fd://{os.dup(given.fileno())}")) == f"unix:{tmp_path / 's'}"


@pytest.mark.parametrize("number", ["", "x", "-1", "99999999999"])
def test_what_is_no_descriptor(bind, number):
    with pytest.raises(BindError, match="names no descriptor"):
        bind(f"fd://{number}")


def test_a_descriptor_that_is_closed(bind):
    with pytest.raises(BindError, match=r"Bad file descriptor\. Give the number"):
        bind("fd://999999")


def test_a_descriptor_that_is_no_socket(bind, tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(BindError, match=r"non-socket\. Give the number"):
        bind(f"fd://{file.fileno()}")


def test_once_new_ones_are_refused_the_queue_stays_what_it_is(bind):
    listener = bind("127.0.0.1:0")
    with socket.create_connection(listener.getsockname(), 5) as queued, socket.socket() as late:
        refuse_new(listener)
        late.settimeout(0.1)
        with pytest.raises(TimeoutError):
            late.connect(listener.getsockname())
        queued.sendall(b"still there")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"still there"
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_refusing_new_ones_is_not_for_unix_sockets_and_harms_none(bind, tmp_path):
    listener = bind(f"unix:{tmp_path / 's'}")
    refuse_new(listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_socket_that_does_not_listen_is_left_open(bind):
    with socket.socket() as sock:
        with pytest.raises(BindError, match="not a listening stream socket"):
            bind(f"fd://{sock.fileno()}")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM


def test_a_listening_socket_of_packets_is_not_a_stream(bind, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        with pytest.raises(BindError, match="not a listening stream socket"):
            bind(f"fd://{sock.fileno()}")


@pytest.mark.parametrize(
    ("variables", "addresses"),
    [
        ({}, ()),
        ({"LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}, ()),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, ("fd://3",)),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, ("fd://3", "fd://4")),
    ],
)
def test_passed_sockets(monkeypatch, variables, addresses):
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert activated() == addresses
    if addresses:
        assert not [name for name in os.environ if name.startswith("LISTEN_")], "they aren't for the children"


@pytest.mark.parametrize("count", ["", "x", "-1", "2147483647"])
def test_what_is_no_number_of_passed_sockets(monkeypatch, count):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(BindError, match=f"LISTEN_FDS is '{count}'"):
        activated()


def test_nothing_stays_open_when_binding_fails(bind):
    port = port_of(bind("127.0.0.1:0"))
    before = settled_descriptors()
    for address in (f"127.0.0.1:{port}", "unix:/nowhere/at/all"):
        with pytest.raises(BindError):
            bind(address)
    assert open_descriptors() == before
    assert not Path("/nowhere").exists()
