"""Sets of peers named by address."""

from __future__ import annotations

import pytest

from hypoll.protocol.bounded import WORDS
from hypoll.protocol.peer import UNIX_CLIENT
from hypoll.proxy.networks import Networks, parse_address, peer_client

KNOWN = ["127.0.0.1", "10.1.2.3", "::1", "2001:db8::5", "::ffff:10.1.2.3", "fe80::1%a", ""]
HOSTS = [*KNOWN, "unix", "unknown", "me", "10.1.2.3 ", "_hidden"]


@pytest.mark.parametrize(
    ("names", "inside"),
    [
        ([], []),
        (["127.0.0.1"], ["127.0.0.1"]),
        (["10.0.0.0/8"], ["10.1.2.3", "::ffff:10.1.2.3"]),
        (["::1", "127.0.0.0/8"], ["127.0.0.1", "::1"]),
        (["2001:db8::/32", "unix"], ["2001:db8::5", ""]),
        (["fe80::/10"], ["fe80::1%a"]),
        (["::ffff:10.0.0.0/104"], ["10.1.2.3", "::ffff:10.1.2.3"]),
        (["::ffff:0:0/96"], ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3"]),
        (["::/0", "unix"], ["::1", "2001:db8::5", "fe80::1%a", ""]),
        (["0.0.0.0/0"], ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3"]),
        (["*"], KNOWN),
    ],
    ids=str,
)
def test_who_is_in(names, inside):
    networks = Networks(names)
    for _ in range(2):  # the second time from memory
        assert [host for host in HOSTS if host in networks] == inside


@pytest.mark.parametrize(
    "name", ["", "localhost", "10.0.0", "10.0.0.1/8", "::1/200", "**", "UNIX", " ::1", "1/8", "unknown"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=r"Give an address, a network as .*, unix or \*") as caught:
        Networks(["::1", name])
    assert repr(name) in str(caught.value)


def test_what_is_remembered_is_bounded():
    networks = Networks(["10.0.0.0/8"])
    for number in range(3 * WORDS):
        assert f"10.0.{number >> 8}.{number & 255}" in networks
    assert len(networks._known) <= WORDS


def test_an_address_of_ipv4_mapped_into_ipv6_is_one_of_ipv4():
    assert str(parse_address("::ffff:1.2.3.4")) == "1.2.3.4"
    assert parse_address("1.2.3.4.5") is None


def test_a_zone_is_no_part_of_an_address_and_not_compared():
    assert str(parse_address("fe80::1%eth0")) == "fe80::1"
    with pytest.raises(ValueError, match="a zone isn't compared"):
        Networks(["fe80::1%eth0"])


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", 5)),
        (("::ffff:10.1.2.3", 5, 0, 0), ("10.1.2.3", 5)),
        (("fe80::1%lo", 5, 0, 1), ("fe80::1", 5)),
        (("::1", 5, 0, 0), ("::1", 5)),
        ("", UNIX_CLIENT),
        (b"\0abstract", UNIX_CLIENT),
    ],
)
def test_the_other_end_of_a_socket(address, client):
    assert peer_client(address) == client


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (["10.0.0.0/8"], ["10.1.0.0/16"], True),
        (["10.0.0.0/8"], ["11.0.0.0/8", "::/0", "unix"], False),
        (["::ffff:10.0.0.1"], ["10.0.0.0/8"], True),
        (["unix"], ["unix", "::1"], True),
        (["*"], ["unix"], True),
        (["*"], [], False),
        ([], [], False),
    ],
)
def test_networks_that_overlap(one, other, meet):
    assert Networks(one).overlaps(Networks(other)) is Networks(other).overlaps(Networks(one)) is meet
