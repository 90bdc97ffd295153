"""One check of client, scheme, host and port: what `Request`, WSGI, gunicorn's hooks and the allow lists go by."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from hypoll import Routes
from hypoll.deploy.gunicorn_logging import HookRequest, environ_of
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import NO_SERVER, UNKNOWN_CLIENT, Peer
from hypoll.proxy.forwarded import TrustedProxies
from hypoll.proxy.proxy_protocol import V2
from hypoll.wsgi.adapter import request_of
from hypoll.wsgi.application import WSGI
from tests.support.client import fetch
from tests.support.server import Running, running

PROXY, LISTENER = ("10.0.0.5", 4711), ("192.0.2.80", 8000)
PROXIES = TrustedProxies(["10.0.0.0/8", "unix"], ["X-Forwarded-Ssl=on"])
TRUSTED = PROXIES.peer(PROXY, "http", LISTENER)
STRANGER = PROXIES.peer(("203.0.113.9", 5), "http", LISTENER)

NAMES = ("wsgi.url_scheme", "REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT")

FOR, PROTO, HOST, PORT = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"


def request(*fields: tuple[str, str], peer: Peer = TRUSTED) -> Request:
    made = HeaderSection(fields)
    made.host = dict(fields).get("host")
    return Request("GET", b"/", made, peer)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: environ.get(name) for name in (*NAMES, "HTTP_X_FORWARDED_FOR")}).encode()]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([], ("http", "10.0.0.5", "4711", None, "192.0.2.80", "8000")),
        ([("host", "")], ("http", "10.0.0.5", "4711", "", "192.0.2.80", "8000")),
        ([("host", "a.b")], ("http", "10.0.0.5", "4711", "a.b", "a.b", "80")),
        ([("host", "a.b:81")], ("http", "10.0.0.5", "4711", "a.b:81", "a.b", "81")),
        ([("host", "a.b"), (FOR, "192.0.2.1:9")], ("http", "192.0.2.1", "9", "a.b", "a.b", "80")),
        ([("host", "a.b"), (FOR, "192.0.2.1"), (PROTO, "https")], ("https", "192.0.2.1", "0", "a.b", "a.b", "443")),
        ([("host", "a.b"), (FOR, "_x"), (PROTO, "https")], ("https", "", "0", "a.b", "a.b", "443")),
        ([("host", "a.b"), (PROTO, "https")], ("https", "", "0", "a.b", "a.b", "443")),
        ([("host", "a.b"), ("x-forwarded-ssl", "on")], ("https", "", "0", "a.b", "a.b", "443")),
        ([("host", "in"), (FOR, "::1"), (HOST, "out:444")], ("http", "::1", "0", "out:444", "out", "444")),
        ([("host", "in:1"), (FOR, "::1"), (HOST, "out")], ("http", "::1", "0", "out", "out", "80")),
        ([("host", "in"), (FOR, "::1"), (PORT, "8443")], ("http", "::1", "0", "in", "in", "8443")),
        ([("host", "in:1"), (FOR, "::1"), (PORT, "8443")], ("http", "::1", "0", "in:1", "in", "1")),
        ([(FOR, "::1"), (PORT, "8443")], ("http", "::1", "0", None, "192.0.2.80", "8443")),
        ([(FOR, "::1"), (HOST, "[::2]:5")], ("http", "::1", "0", "[::2]:5", "[::2]", "5")),
        (
            [("host", "in"), ("forwarded", 'for="[::ffff:192.0.2.1]:9";proto=https;host="out:444"')],
            ("https", "192.0.2.1", "9", "out:444", "out", "444"),
        ),
        ([("host", "a.b"), ("x_forwarded_for", "6.6.6.6")], ("http", "10.0.0.5", "4711", "a.b", "a.b", "80")),
    ],
    ids=str,
)
def test_what_a_trusted_proxy_tells_is_what_the_application_gets(fields, told):
    made = request(*fields)
    for environ in (WSGI(application).environ(made), environ_of(HookRequest(made))):
        assert tuple(environ.get(name) for name in NAMES) == told
    assert ("" if made.client == UNKNOWN_CLIENT else made.client[0]) == told[1]
    assert (made.scheme, made.host) == (told[0], told[3] or "")


@pytest.mark.parametrize(
    "field", [(FOR, "1.2.3.4"), (PROTO, "https"), (HOST, "x"), (PORT, "9"), ("forwarded", "for=_x")]
)
def test_a_stranger_s_word_changes_nothing(field):
    environ = WSGI(application).environ(request(("host", "a.b"), field, peer=STRANGER))
    assert tuple(environ[name] for name in NAMES) == ("http", "203.0.113.9", "5", "a.b", "a.b", "80")


def test_equal_sections_of_different_peers_are_told_apart():
    """A header section is one object, whoever sends it; what it means depends on the sender."""
    shared = request(("host", "a"), (FOR, "192.0.2.1"), (PROTO, "https")).header_section
    secure = Peer(("203.0.113.9", 5), "https", server=("192.0.2.80", 8443))
    peers = {TRUSTED: ("https", "192.0.2.1"), STRANGER: ("http", "203.0.113.9"), secure: ("https", "203.0.113.9")}
    one, other = WSGI(application), WSGI(application, script_name="/below")
    for app in (one, other, one):
        for _ in range(2):
            for peer, told in peers.items():
                environ = app.environ(Request("GET", b"/below", shared, peer))
                assert (environ["wsgi.url_scheme"], environ["REMOTE_ADDR"]) == told
                assert environ["SCRIPT_NAME"] == app.script_name


def test_the_target_s_authority_is_the_host_unless_a_proxy_tells_another():
    for fields, host in (((("host", "field"),), "target:5"), ((("host", "field"), (HOST, "told")), "told")):
        made = request(*fields)
        made.authority = "target:5"
        environ = WSGI(application).environ(made)
        assert environ["HTTP_HOST"] == made.host == host
        assert environ["SERVER_NAME"] == host.partition(":")[0]


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (("192.0.2.80", 8000), ("192.0.2.80", "8000")),
        (("2001:db8::1", 8000), ("[2001:db8::1]", "8000")),
        (NO_SERVER, ("localhost", "80")),
    ],
)
def test_without_a_host_the_server_is_the_listener(server, told):
    environ = WSGI(application).environ(request(peer=Peer(PROXY, server=server)))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == told
    assert "HTTP_HOST" not in environ


def test_fields_with_underscores_are_for_no_hook_and_no_log():
    made = HookRequest(request((FOR, "192.0.2.1"), ("x_forwarded_for", "6.6.6.6"), ("x-forwarded_for", "7.7.7.7")))
    assert made.headers == [("X-FORWARDED-FOR", "192.0.2.1")]
    assert environ_of(made)["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"
    assert (made.remote_addr, environ_of(made)["REMOTE_ADDR"]) == (("192.0.2.1", 0), "192.0.2.1")


def test_a_refused_request_has_an_environment_too():
    environ = environ_of(HookRequest(Request("", b"", peer=STRANGER)))
    assert (environ["REQUEST_METHOD"], environ["RAW_URI"], environ["REMOTE_ADDR"]) == ("-", "-", "203.0.113.9")


# an environment read


@pytest.mark.parametrize(
    ("environ", "client"),
    [
        ({"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "5"}, ("192.0.2.1", 5)),
        ({"REMOTE_ADDR": "::ffff:192.0.2.1"}, ("192.0.2.1", 0)),
        ({"REMOTE_ADDR": "fe80::1%eth0", "REMOTE_PORT": "²"}, ("fe80::1", 0)),
        ({"REMOTE_ADDR": ""}, UNKNOWN_CLIENT),
        ({"REMOTE_ADDR": "", "REMOTE_PORT": "5"}, UNKNOWN_CLIENT),
        ({"REMOTE_ADDR": "unix:"}, UNKNOWN_CLIENT),
        ({}, UNKNOWN_CLIENT),
    ],
    ids=str,
)
def test_the_client_of_an_environment(environ, client):
    assert request_of({"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http"} | environ).client == client


def test_an_environment_gives_no_field_twice():
    """`Content_Length` becomes HTTP_CONTENT_LENGTH where a server merges underscores into dashes."""
    environ = {"CONTENT_LENGTH": "3", "HTTP_CONTENT_LENGTH": "9", "HTTP_CONTENT_TYPE": "x/y", "HTTP_X_A": "1"}
    made = request_of({"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http"} | environ)
    assert made.headers.raw == [("content-length", "3"), ("x-a", "1")]


def test_what_is_built_is_read_as_the_same():
    made = request(("host", "in"), (FOR, "192.0.2.1:9"), (PROTO, "https"), (HOST, "out"))
    read = request_of(WSGI(application).environ(made))
    assert (read.client, read.scheme, read.host) == (made.client, made.scheme, made.host)


# through sockets


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(WSGI(application)) as it:
        yield it


def ask(server: Running, *fields: str, version: str = "1.1") -> dict[str, Any]:
    lines = [f"GET / HTTP/{version}", *fields, "", ""]
    answer = server.connect().ask("\r\n".join(lines).encode())
    return dict(json.loads(answer.body))


def test_without_a_host_the_port_is_the_listener_s(server):
    told = ask(server, version="1.0")
    assert (told["SERVER_NAME"], told["SERVER_PORT"], told["HTTP_HOST"]) == ("127.0.0.1", str(server.address[1]), None)


def test_who_listens_everywhere_has_the_machine_s_name():
    with running(WSGI(application), bind=("0.0.0.0:0",)) as server:
        told = ask(server, version="1.0")
        assert (told["SERVER_NAME"], told["SERVER_PORT"]) == (socket.gethostname(), str(server.address[1]))


def test_the_proxy_protocol_tells_the_server_s_address_too():
    with running(WSGI(application), proxy_protocol=True) as server:
        client = server.connect()
        client.send(b"PROXY TCP4 192.0.2.1 198.51.100.9 4711 443\r\n")
        told = json.loads(client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").body)
        assert tuple(told[name] for name in NAMES) == ("http", "192.0.2.1", "4711", None, "198.51.100.9", "443")


@pytest.mark.parametrize(("flags", "told"), [(1, ("https", "443")), (0, ("http", "80"))])
def test_the_proxy_protocol_tells_that_the_client_came_by_tls(flags, told):
    addresses = bytes((192, 0, 2, 1, 198, 51, 100, 9, 1, 1, 1, 1))
    header = V2 + struct.pack("!BBH", 0x21, 0x11, 20) + addresses + struct.pack("!BHBI", 0x20, 5, flags, 0)
    with running(WSGI(application), proxy_protocol=True) as server:
        client = server.connect()
        client.send(header)
        answer = json.loads(client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body)
        assert (answer["wsgi.url_scheme"], answer["SERVER_PORT"]) == told


def test_a_chain_of_proxies_and_what_the_client_forged(server):
    forged = "X-Forwarded-For: 6.6.6.6, 203.0.113.7", "X_Forwarded_For: 7.7.7.7"
    told = ask(server, "Host: a", *forged, "X-Forwarded-For: ::ffff:127.0.0.1", "X-Forwarded-Proto: https, http")
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("203.0.113.7", "https")
    assert told["HTTP_X_FORWARDED_FOR"] == "6.6.6.6, 203.0.113.7, ::ffff:127.0.0.1"


HIDDEN = [
    "Forwarded: for=_hidden",
    "Forwarded: for=unknown",
    "Forwarded: proto=https",
    "Forwarded: nonsense",
    'Forwarded: for="_hidden:_port"',
    "X-Forwarded-For: unknown",
    "X-Forwarded-For:",
    "X-Forwarded-For: 127.0.0.1, ",
    "X-Forwarded-For: proxy.example",
    "X-Forwarded-Proto: https",
]


@pytest.mark.parametrize("field", HIDDEN)
def test_whom_a_proxy_hides_does_not_count_as_the_proxy(field):
    routes = Routes()
    routes.get("/")(lambda request: request.client[0])
    with running(routes, status="/-/status", status_allow=("127.0.0.0/8", "0.0.0.0/0", "unix", "*")) as server:
        client = server.connect()
        page = b"GET /-/status%b HTTP/1.1\r\nHost: a\r\n%b\r\n"
        assert client.ask(page % (b"", b"")).status == 200, "the proxy itself may see it"
        for form in (b"", b".json"):
            assert client.ask(page % (form, field.encode() + b"\r\n")).status == 403
        assert client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % field.encode()).body == b"unknown"


@pytest.mark.parametrize("field", HIDDEN)
def test_an_unknown_client_has_no_address(server, field):
    told = ask(server, "Host: a", field)
    assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == ("", "0")


def test_the_peer_of_a_unix_socket_is_known(tmp_path):
    with running(Routes(), bind=(f"unix:{tmp_path / 's'}",), status="/-/status") as _:
        for fields, status in (({}, 200), ({"Forwarded": "for=_hidden"}, 403), ({"X-Forwarded-For": "::1"}, 200)):
            assert fetch(str(tmp_path / "s"), "/-/status", fields).status == status
