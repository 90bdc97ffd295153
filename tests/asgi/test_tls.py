"""What an ASGI application is notified of TLS, and that TLS changes nothing else."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests.asgi.asgiapps import GET, Message, Receive, Send, body, serving, start
from tests.support.client import Client


class Files:
    def __init__(self, root: Path) -> None:
        authority = trustme.CA()
        self.ca, self.server, self.client = (str(root / name) for name in ("ca.pem", "server.pem", "client.pem"))
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.server)
        own = authority.issue_cert("someone@example.org", common_name="Some One", organization_name="A, B")
        own.private_key_and_cert_chain_pem.write_to_path(self.client)

    def context(self, version: ssl.TLSVersion, own: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = context.maximum_version = version
        if own:
            context.load_cert_chain(self.client)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("version", "number"), [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)])
def test_the_session_is_told(files, version, number, own):
    scopes: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(start())
        await send(body(b"he", True))
        await send(body(b"llo"))

    with serving(app, certfile=files.server, ca_certs=files.ca, cert_reqs="optional") as it:
        client = Client(it.address, tls=files.context(version, own))
        for _ in range(2):
            assert client.ask(GET).body == b"hello"
        assert isinstance(client.sock, ssl.SSLSocket)
        der = client.sock.getpeercert(binary_form=True)
        cipher = client.sock.cipher()
        client.close()
    told = scopes[0]["extensions"]["tls"]
    assert scopes[0]["scheme"] == "https"
    assert der is not None
    assert cipher is not None
    assert told["server_cert"].strip() == ssl.DER_cert_to_PEM_cert(der).strip()
    assert told["tls_version"] == number
    ids = {one["name"]: one["id"] & 0xFFFF for one in files.context(version, own).get_ciphers()}
    assert told["cipher_suite"] == ids[cipher[0]]
    assert told["client_cert_error"] is None
    if own:
        assert told["client_cert_chain"][0].strip() in Path(files.client).read_text()
        assert "CN=Some One" in told["client_cert_name"]
        assert "O=A\\, B" in told["client_cert_name"]
    else:
        assert (told["client_cert_chain"], told["client_cert_name"]) == ([], None)
    told["spoilt"] = True
    assert "spoilt" not in scopes[1]["extensions"]["tls"]


def test_a_file_is_encrypted(files, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(number % 251 for number in range(500_000)))

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        if scope["path"] == "/path":
            await send({"type": "http.response.pathsend", "path": str(path)})
            return
        with path.open("rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
        await send(body(b"end"))

    with serving(app, certfile=files.server) as it:
        client = Client(it.address, tls=files.context(ssl.TLSVersion.TLSv1_3, own=False))
        assert client.ask(GET).body == path.read_bytes() + b"end"
        assert client.ask(GET.replace(b"/ ", b"/path ")).body == path.read_bytes()
        client.close()


def test_without_tls_there_is_no_such_extension():
    scopes: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(start())
        await send(body())

    with serving(app) as it:
        it.connect().ask(GET[:-2] + b"X-Forwarded-Proto: https\r\n\r\n")
    assert scopes[0]["scheme"] == "https"
    assert "tls" not in scopes[0]["extensions"]


def test_a_client_that_goes_is_noticed_over_tls(files):
    got: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        while not got or got[-1]["type"] != "http.disconnect":
            got.append(await receive())

    with serving(app, certfile=files.server) as it:
        client = Client(it.address, tls=files.context(ssl.TLSVersion.TLSv1_3, own=False))
        client.send(GET)
        it.until(lambda: got)
        client.sock.shutdown(socket.SHUT_RDWR)
        client.close()
        it.until(lambda: got[-1]["type"] == "http.disconnect")
