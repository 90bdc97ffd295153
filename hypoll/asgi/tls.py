"""What a scope says about TLS (ASGI TLS 0.2)."""

from __future__ import annotations

import contextlib
import ssl
import weakref
from typing import Any

from hypoll.server.transport import TLSSocket

_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

_KEYWORDS = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
"""Attribute types by OpenSSL's names, as RFC 4514 (3) writes them."""

Extension = dict[str, Any]


class Certificates:
    """Makes the extension `tls` of scopes, once for each connection.

    Args:
        certfile: where the server's certificate is, which no socket knows; empty: that isn't known.
    """

    def __init__(self, certfile: str) -> None:
        self._certfile = certfile
        self._own: str | None = None
        self._numbers: dict[str, int] = {}
        self._made: weakref.WeakKeyDictionary[TLSSocket, Extension] = weakref.WeakKeyDictionary()

    def of(self, sock: TLSSocket) -> Extension:
        """What is known of a connection's TLS."""
        made = self._made.get(sock)
        if made is None:
            made = self._made[sock] = self._make(sock.session)
        return made

    def _make(self, session: ssl.SSLObject) -> Extension:
        cipher = session.cipher()
        chain = [ssl.DER_cert_to_PEM_cert(der) for der in _chain_of(session)]
        return {
            "server_cert": self._server_cert(),
            "client_cert_chain": chain,
            "client_cert_name": name_of(session.getpeercert() or {}) if chain else None,
            "client_cert_error": None,  # who fails has no connection
            "tls_version": _VERSIONS.get(session.version() or ""),
            "cipher_suite": None if cipher is None else self._number_of(session, cipher[0]),
        }

    def _server_cert(self) -> str | None:
        if self._own is None and self._certfile:
            with contextlib.suppress(OSError), open(self._certfile, encoding="ascii", errors="replace") as file:
                _, begin, rest = file.read().partition(_BEGIN)
                self._own = begin + rest.partition(_END)[0] + _END + "\n"
        return self._own

    def _number_of(self, session: ssl.SSLObject, name: str) -> int | None:
        """The number of a cipher suite (RFC 8446, B.4): the lower half of OpenSSL's."""
        if name not in self._numbers:
            self._numbers |= {cipher["name"]: cipher["id"] & 0xFFFF for cipher in session.context.get_ciphers()}
        return self._numbers.get(name)


def _chain_of(session: ssl.SSLObject) -> list[bytes]:
    """The client's certificates in DER form, its own first: before Python 3.13 only that is to be had."""
    own = session.getpeercert(binary_form=True)
    if own is None:
        return []
    chain = getattr(session, "get_unverified_chain", None)
    return [own] if chain is None else list(chain())


def name_of(certificate: Any) -> str | None:
    """The subject of a certificate as one string (RFC 4514): the last of its parts first."""
    parts = [
        "+".join(f"{_KEYWORDS.get(key, key)}={_escaped(value)}" for key, value in relative)
        for relative in certificate.get("subject", ())
    ]
    return ",".join(reversed(parts)) or None


def _escaped(value: str) -> str:
    """A value as RFC 4514 (2.4) has it."""
    escaped = "".join("\\" + one if one in '"+,;<>\\' else "\\00" if one == "\0" else one for one in value)
    if escaped.startswith(("#", " ")):
        escaped = "\\" + escaped
    if escaped.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
