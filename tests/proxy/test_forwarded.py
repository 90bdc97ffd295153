"""Who a request is from, by the word of proxies, and nobody else's."""

from __future__ import annotations

import pytest

from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import NO_ORIGIN, UNKNOWN_CLIENT, Origin
from hypoll.proxy import forwarded as module
from hypoll.proxy.forwarded import UNKNOWN, TrustedProxies, origin_of, secure_scheme
from hypoll.proxy.networks import Networks

ALLOWED = ["10.0.0.0/8", "2001:db8::/32", "unix"]
TRUSTED = Networks(ALLOWED)
PROXIES = TrustedProxies(ALLOWED)

FOR, PROTO, HOST, PORT = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"
FORWARDED = "forwarded"


def client(host: str, port: int = 0) -> Origin:
    return Origin((host, port))


def unknown(scheme: str | None, host: str | None = None) -> Origin:
    return Origin(UNKNOWN_CLIENT, scheme, host)


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ([], NO_ORIGIN),
        ([("host", "a"), ("via", "b")], NO_ORIGIN),
        # one proxy
        ([(FOR, "192.0.2.1")], client("192.0.2.1")),
        ([(FOR, " 192.0.2.1:4711 ")], client("192.0.2.1", 4711)),
        ([(FOR, "2001:db9::1")], client("2001:db9::1")),
        ([(FOR, "[2001:db9::1]:80")], client("2001:db9::1", 80)),
        ([(FOR, "2001:0DB9::0:1")], client("2001:db9::1")),
        ([(FOR, "::ffff:192.0.2.1")], client("192.0.2.1")),
        # what the client sent itself is left of what the proxy appended
        ([(FOR, "6.6.6.6, 192.0.2.1")], client("192.0.2.1")),
        ([(FOR, "10.0.0.1, 192.0.2.1")], client("192.0.2.1")),
        ([(FOR, "6.6.6.6"), (FOR, "192.0.2.1")], client("192.0.2.1")),
        # several proxies
        ([(FOR, "192.0.2.1, 10.0.0.7")], client("192.0.2.1")),
        ([(FOR, "6.6.6.6, 192.0.2.1, 10.0.0.7,10.0.0.8")], client("192.0.2.1")),
        ([(FOR, "6.6.6.6"), (FOR, "192.0.2.1"), (FOR, "10.0.0.7")], client("192.0.2.1")),
        ([(FOR, "10.0.0.9, 10.0.0.7")], client("10.0.0.9")),
        ([(FOR, "192.0.2.1, 2001:db8::7")], client("192.0.2.1")),
        # one that isn't named by an address is unknown, and nobody else
        ([(FOR, "")], UNKNOWN),
        ([(FOR, "unknown")], UNKNOWN),
        ([(FOR, "_hidden, 10.0.0.7")], UNKNOWN),
        ([(FOR, "192.0.2.1, , 10.0.0.7")], UNKNOWN),
        ([(FOR, "192.0.2.1, ")], UNKNOWN),
        ([(FOR, "192.0.2.1, 10.0.0.7 10.0.0.8")], UNKNOWN),
        ([(FOR, "192.0.2.1, 10.0.0.256")], UNKNOWN),
        ([(FOR, "192.0.2.1, unix:")], UNKNOWN),
        ([(FOR, "192.0.2.1:99999")], UNKNOWN),
        ([(FOR, "192.0.2.1:x")], UNKNOWN),
        ([(FOR, "192.0.2.1:")], UNKNOWN),
        ([(FOR, "[192.0.2.1]")], UNKNOWN),
        ([(FOR, "[2001:db9::1")], UNKNOWN),
        ([(FOR, "192.0.2.1%eth0")], UNKNOWN),
        ([(FOR, "192.0.02.1")], UNKNOWN),
        ([(FOR, "192.0.2.1\x00")], UNKNOWN),
        ([(FOR, "١٩٢.0.2.1")], UNKNOWN),
        ([(FOR, '"10.0.0.5')], UNKNOWN),
        # the one form of an address, in any notation
        ([(FOR, "[2001:db9::1]")], client("2001:db9::1")),
        ([(FOR, "[::FFFF:192.0.2.1]:80")], client("192.0.2.1", 80)),
        ([(FOR, "::ffff:c000:201")], client("192.0.2.1")),
        ([(FOR, "192.0.2.1, ::ffff:10.0.0.7")], client("192.0.2.1")),
        ([(FOR, "fe80::1%eth0")], client("fe80::1")),
        ([(FOR, "[fe80::1%25eth0]:80")], client("fe80::1", 80)),
        ([(FOR, '"192.0.2.1"')], client("192.0.2.1")),
        ([(FOR, '"[2001:db9::1]:80"')], client("2001:db9::1", 80)),
        ([(FOR, "192.0.2.1:_made-up.port")], client("192.0.2.1")),
        # scheme and host
        ([(PROTO, "https")], unknown("https")),
        ([(PROTO, "HTTPS")], unknown("https")),
        ([(PROTO, "javascript")], UNKNOWN),
        ([(HOST, "example.com:8443")], unknown(None, "example.com:8443")),
        ([(HOST, "a b")], UNKNOWN),
        ([(HOST, "a/../b")], UNKNOWN),
        ([(HOST, "")], UNKNOWN),
        ([(FOR, "192.0.2.1"), (PROTO, "https"), (HOST, "a.b")], Origin(("192.0.2.1", 0), "https", "a.b")),
        ([(FOR, "192.0.2.1"), (PROTO, "https, http")], Origin(("192.0.2.1", 0), "http", None)),
        ([(FOR, "192.0.2.1, 10.0.0.7"), (PROTO, "https, http")], Origin(("192.0.2.1", 0), "https", None)),
        ([(FOR, "192.0.2.1, 10.0.0.7"), (PROTO, "https")], Origin(("192.0.2.1", 0), "https", None)),
        ([(FOR, "192.0.2.1, 10.0.0.7"), (HOST, "evil, a.b, c.d")], Origin(("192.0.2.1", 0), None, "a.b")),
        ([(FOR, "_hidden"), (PROTO, "https")], unknown("https")),
        ([(FOR, "_hidden, 10.0.0.7"), (PROTO, "https, http")], unknown("https")),
        ([(FOR, "192.0.2.1"), (PORT, "8443")], Origin(("192.0.2.1", 0), None, None, 8443)),
        ([(FOR, "192.0.2.1, 10.0.0.7"), (PORT, "1, 8443, 80")], Origin(("192.0.2.1", 0), None, None, 8443)),
        ([(FOR, "192.0.2.1"), (PORT, "0")], client("192.0.2.1")),
        ([(FOR, "192.0.2.1"), (PORT, "65536")], client("192.0.2.1")),
        ([(FOR, "192.0.2.1"), (PORT, "²")], client("192.0.2.1")),
        # an underscore makes another field
        ([("x_forwarded_for", "6.6.6.6")], NO_ORIGIN),
        ([("x_forwarded_for", "6.6.6.6"), (FOR, "192.0.2.1"), ("x-forwarded_for", "7.7.7.7")], client("192.0.2.1")),
        # Forwarded
        ([(FORWARDED, "for=192.0.2.1")], client("192.0.2.1")),
        ([(FORWARDED, "For=192.0.2.1;Proto=https;By=10.0.0.7")], Origin(("192.0.2.1", 0), "https", None)),
        ([(FORWARDED, 'for="192.0.2.1:4711" ; host="a.b:80"')], Origin(("192.0.2.1", 4711), None, "a.b:80")),
        ([(FORWARDED, 'for="[2001:db9::1]:4711"')], client("2001:db9::1", 4711)),
        ([(FORWARDED, 'for="[2001:db9::1]"')], client("2001:db9::1")),
        ([(FORWARDED, r'for="192.0.\2.1"')], client("192.0.2.1")),
        ([(FORWARDED, "for=6.6.6.6, for=192.0.2.1, for=10.0.0.7")], client("192.0.2.1")),
        ([(FORWARDED, "for=6.6.6.6"), (FORWARDED, "for=192.0.2.1")], client("192.0.2.1")),
        ([(FORWARDED, "for=192.0.2.1;proto=https, for=10.0.0.7;proto=http")], Origin(("192.0.2.1", 0), "https", None)),
        ([(FORWARDED, "for=192.0.2.1, for=10.0.0.7;proto=https;host=a")], Origin(("192.0.2.1", 0), "https", "a")),
        ([(FORWARDED, "proto=https")], unknown("https")),
        ([(FORWARDED, "for=unknown;proto=https")], unknown("https")),
        ([(FORWARDED, "for=_gazonk, for=10.0.0.7")], UNKNOWN),
        ([(FORWARDED, "for=_hidden")], UNKNOWN),
        ([(FORWARDED, "for=_hidden;proto=https;host=a")], unknown("https", "a")),
        ([(FORWARDED, 'for="_hidden:80"')], UNKNOWN),
        ([(FORWARDED, 'for="unknown:_p"')], UNKNOWN),
        ([(FORWARDED, "for=192.0.2.1, proto=http")], unknown("http")),
        ([(FORWARDED, 'for="192.0.2.1:_obfuscated"')], client("192.0.2.1")),
        ([(FORWARDED, 'for="[2001:db9::1]:_x"')], client("2001:db9::1")),
        ([(FORWARDED, 'for="[::ffff:192.0.2.1]:9"')], client("192.0.2.1", 9)),
        ([(FORWARDED, "for=192.0.2.1:80")], UNKNOWN),
        # elements and pairs may be empty (RFC 9110, 5.6.1; RFC 7239, 4)
        ([(FORWARDED, "for=192.0.2.1, , for=10.0.0.7,")], client("192.0.2.1")),
        ([(FORWARDED, "for=192.0.2.1;;proto=https;")], Origin(("192.0.2.1", 0), "https", None)),
        # a client can't swallow what a proxy appends
        ([(FORWARDED, 'for="6.6.6.6, for=192.0.2.1')], client("192.0.2.1")),
        ([(FORWARDED, 'for=6.6.6.6;x=", for=192.0.2.1;y="z"')], client("192.0.2.1")),
        ([(FORWARDED, 'for=6.6.6.6;x="\\, for="[2001:db9::1]"')], client("2001:db9::1")),
        ([(FORWARDED, "for, for=10.0.0.7")], UNKNOWN),
        ([(FORWARDED, "for=192.0.2.1;for=6.6.6.6")], UNKNOWN),
        ([(FORWARDED, "for = 192.0.2.1")], UNKNOWN),
        ([(FORWARDED, "")], UNKNOWN),
        # both kinds
        ([(FORWARDED, "for=192.0.2.1"), (FOR, "192.0.2.1"), (PROTO, "https")], Origin(("192.0.2.1", 0), "https", None)),
        ([(FORWARDED, "for=6.6.6.6"), (FOR, "192.0.2.1")], UNKNOWN),
        ([(FORWARDED, "for=192.0.2.1"), (FOR, "6.6.6.6")], UNKNOWN),
        ([(FORWARDED, "for=192.0.2.1"), (FOR, "")], UNKNOWN),
        ([(FORWARDED, "nonsense"), (FOR, "192.0.2.1")], UNKNOWN),
        ([(FORWARDED, "for=192.0.2.1"), (PROTO, "https")], UNKNOWN),
        ([(FORWARDED, 'for="192.0.2.1:9";proto=http'), (FOR, "192.0.2.1"), (PROTO, "https")], client("192.0.2.1", 9)),
        ([(FORWARDED, "for=192.0.2.1;host=a"), (FOR, "192.0.2.1"), (HOST, "b")], client("192.0.2.1")),
        ([(FORWARDED, "for=_hidden;proto=https"), (FOR, "unknown")], unknown("https")),
    ],
    ids=lambda value: ascii(value)[:80],
)
def test_by_the_word_of_a_trusted_peer(fields, origin):
    assert origin_of(fields, TRUSTED) == origin
    for peer in ("10.0.0.5", "", "2001:db8::5", "::ffff:10.0.0.5"):
        request = Request("GET", b"/", HeaderSection(tuple(fields)), PROXIES.peer((peer, 5), "http"))
        assert request.client == (origin.client or (peer, 5))
        assert request.scheme == (origin.scheme or "http"), peer
        assert request.host == (origin.host or dict(fields).get("host", "")), peer


@pytest.mark.parametrize("peer", ["192.0.2.9", "2001:db9::1", "nonsense"])
@pytest.mark.parametrize("field", [(FOR, "1.2.3.4"), (PROTO, "https"), (HOST, "a"), (FORWARDED, "for=1.2.3.4")])
def test_another_peer_s_word_is_not_heard(peer, field):
    request = Request("GET", b"/", HeaderSection((field,)), PROXIES.peer((peer, 5), "http"))
    assert (request.client, request.scheme, request.host) == ((peer, 5), "http", "")
    assert request.header_section.origin is None, "the fields of an untrusted peer are not even looked at"


def test_when_everybody_is_trusted_the_leftmost_is_the_client():
    everybody = Networks(["*"])
    assert origin_of([(FOR, "1.1.1.1, 2.2.2.2, 3.3.3.3")], everybody) == client("1.1.1.1")


@pytest.mark.parametrize(("count", "last"), [(module.MAX_HOPS, client("10.0.0.32")), (module.MAX_HOPS + 1, UNKNOWN)])
def test_the_walk_is_bounded_and_its_end_is_nobody(count, last):
    hops = ", ".join(f"10.0.0.{number}" for number in range(count, 0, -1))
    for field in [(FOR, hops), (FORWARDED, hops.replace("10.0", "for=10.0"))]:
        assert origin_of([field], TRUSTED) == last


@pytest.mark.parametrize("allowed", [["0.0.0.0/0", "::/0", "unix"], ["*"]])
@pytest.mark.parametrize("field", [(FOR, "_hidden"), (FORWARDED, "for=unknown"), (PROTO, "https"), (FOR, "6.6.6.6, x")])
def test_an_unknown_client_is_in_no_network(allowed, field):
    host = Request("GET", b"/", HeaderSection((field,)), TrustedProxies(allowed).peer(("10.0.0.5", 5), "http")).client[
        0
    ]
    assert host == "unknown"
    assert host not in Networks(allowed)


def test_an_unknown_peer_is_not_believed_even_by_who_believes_everybody():
    request = Request(
        "GET", b"/", HeaderSection(((FOR, "1.2.3.4"),)), TrustedProxies(["*"]).peer(UNKNOWN_CLIENT, "http")
    )
    assert request.client == UNKNOWN_CLIENT


def test_a_client_can_not_make_itself_the_proxy():
    section = HeaderSection(((FOR, "192.0.2.1"), (FORWARDED, "for=10.0.0.5")))
    assert Request("GET", b"/", section, PROXIES.peer(("10.0.0.5", 5000), "http")).client[0] not in TRUSTED


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ([("x-forwarded-ssl", "on")], "https"),
        ([("x-forwarded-ssl", "off")], "http"),
        ([(PROTO, "https")], "https"),
        ([], "http"),
    ],
)
def test_a_field_of_one_s_own_tells_the_scheme(fields, scheme):
    proxies = TrustedProxies(["10.0.0.0/8"], ["X-Forwarded-Ssl=on"])
    for peer, told in (("10.0.0.5", scheme), ("192.0.2.9", "http")):
        request = Request("GET", b"/", HeaderSection(tuple(fields)), proxies.peer((peer, 5), "http"))
        assert request.scheme == told
        hidden = bool(fields) and peer == "10.0.0.5"
        assert request.client == (UNKNOWN_CLIENT if hidden else (peer, 5)), "a proxy wrote it, for somebody else"


HEADERS = {"x-forwarded-protocol": "ssl", "x-forwarded-proto": "https", "x-forwarded-ssl": "on"}
"""gunicorn's default."""


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ([], None),
        ([("host", "https")], None),
        ([("x-forwarded-proto", "https")], "https"),
        ([("x-forwarded-proto", "http")], "http"),
        ([("x-forwarded-proto", "HTTPS")], "http"),
        ([("x-forwarded-ssl", "on"), ("x-forwarded-proto", "https")], "https"),
        ([("x-forwarded-ssl", "off"), ("x-forwarded-proto", "http")], "http"),
        ([("x-forwarded-protocol", "ssl")], "https"),
    ],
)
def test_the_scheme_by_gunicorn_s_setting(fields, scheme):
    assert secure_scheme(fields, HEADERS) == scheme
    assert secure_scheme(fields, {}) is None


def test_contradicting_schemes_are_not_secure():
    assert secure_scheme([("x-forwarded-ssl", "on"), ("x-forwarded-proto", "http")], HEADERS) == "http"
