"""TLS: a context that is safe, made of files, and a socket whose content is encrypted, as a connection wants it.

Laws:

- A `TLSSocket` keeps what edge-triggered epoll promises of a plain socket: a short read has drained it, the kernel's
  buffer and all that TLS holds back alike; a short send waits for the writable edge, which will come.
- TLS never touches the descriptor. It reads and writes memory (ssl.MemoryBIO); what goes to the kernel and what comes
  from it is decided here. So a write never has to be repeated as it was, nor a read waits for a write.
- What is encrypted and not yet taken by the kernel counts as not sent: its sender keeps it, offers it again, and its
  deadline runs.
- Who makes TLS work without sending content is cut off.
- What TLS writes is taken out of its memory before another socket's turn: so that memory can be one for all of them.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Any, overload

from hypoll.option import OptionError
from hypoll.server.socket_io import SENDMSG_BUFFERS, Buffers, discard_sent
from hypoll.server.sockets import BindError
from hypoll.settings import CERT_REQS, Settings

READ_SIZE = 64 * 1024
"""Encrypted bytes asked for by one read, and given to TLS at once: its buffers never shrink."""

CONTENT_SIZE = 16 * 1024
"""The most content of one record (RFC 8446, 5.1)."""

ENCRYPT_SIZE = 128 * 1024
"""Content encrypted in one step. Half as much costs a tenth more; TLS's buffers, which never shrink, grow with it."""

AHEAD_SIZE = 512 * 1024
"""Content encrypted for one call of the kernel, but for a last step. What that doesn't take waits in memory.

With half as much an answer of 1 MiB cost a tenth more; twice as much gained nothing."""

TURN_SIZE = 1024 * 1024
"""Content encrypted before the other connections have their turn: with half as much 1 MiB cost a twentieth more."""

LETTERS = range(ord("A"), ord("Z") + 1)
"""What a request line begins with, and no record of TLS (RFC 8446, 5.1: their types are 20 to 24)."""

FRUITLESS_SIZE = 256 * 1024
"""Encrypted bytes in a row without content, after which a peer is cut off; and bytes of TLS's answers that may wait.
OpenSSL takes a ClientHello of 131,396 bytes and certificates of 102,400; later there are only a few key updates."""

VERIFY = dict(zip(CERT_REQS, (ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED), strict=True))


class TLSError(BindError):
    """TLS can't be offered; the message says why and what to do.

    text: names options as that of `hypoll.option.OptionError` does.
    """

    def __init__(self, text: str) -> None:
        super().__init__(str(OptionError(text)))
        self.text = text


def context_of(settings: Settings) -> ssl.SSLContext | None:
    """The context that the settings ask for; None: they ask for none. Raises `TLSError`."""
    if not settings.certfile:
        for name in ("keyfile", "ca_certs", "ciphers"):
            if getattr(settings, name):
                raise TLSError(f"<{name}> is given, but no <certfile>: TLS needs a certificate")
        if settings.cert_reqs != "none":
            raise TLSError("<cert_reqs> asks for clients' certificates, but there is no <certfile>: TLS needs one")
        return None
    if settings.ca_certs and settings.cert_reqs == "none":
        raise TLSError("<ca_certs> is given, but <cert_reqs> is none: no client is asked for a certificate")
    return make_context(
        settings.certfile,
        settings.keyfile or None,
        ca_certs=settings.ca_certs or None,
        cert_reqs=VERIFY[settings.cert_reqs],
        ciphers=settings.ciphers or None,
    )


def make_context(
    certfile: str,
    keyfile: str | None = None,
    *,
    ca_certs: str | None = None,
    cert_reqs: int = ssl.CERT_NONE,
    ciphers: str | None = None,
) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and 1.3, HTTP/1.1 by ALPN (RFC 7301), no renegotiation.

    Raises `TLSError`.

    Args:
        certfile: the certificate in PEM form, with those between it and the root behind it.
        keyfile: its key, not encrypted; None: it is in `certfile`, too.
        ca_certs: the certificates, in PEM form, that those of clients must lead to.
        cert_reqs: whether clients are asked for a certificate: ssl.CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED.
        ciphers: those of TLS 1.2, as `openssl ciphers` writes them. Default: Python's, with forward secrecy.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, certfile, keyfile)
    context.verify_mode = ssl.VerifyMode(cert_reqs)
    if ca_certs is not None:
        _load_authorities(context, ca_certs)
    elif cert_reqs != ssl.CERT_NONE:
        raise TLSError("<cert_reqs> asks for clients' certificates: name those they must lead to with <ca_certs>")
    if ciphers is not None:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            raise TLSError(f"<ciphers> is {ciphers!r}: OpenSSL knows none of them, see `openssl ciphers`") from None
    return context


def _load_certificate(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    _check_pem(certfile, "CERTIFICATE", "certificate")
    _check_pem(keyfile or certfile, "PRIVATE KEY", "key")
    try:
        # Without a function for it OpenSSL would ask on the terminal.
        context.load_cert_chain(certfile, keyfile, _no_password(keyfile or certfile))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"the key in {keyfile or certfile} is not that of the certificate"
        else:
            reason = _reason(error)
        raise TLSError(f"can't use the certificate {certfile}: {reason}") from None


def _no_password(keyfile: str) -> Any:
    def refuse() -> str:
        raise TLSError(f"the key in {keyfile} is encrypted, and can't be used so: decrypt it with `openssl pkey`")

    return refuse


def _load_authorities(context: ssl.SSLContext, ca_certs: str) -> None:
    _check_pem(ca_certs, "CERTIFICATE", "certificate")
    try:
        context.load_verify_locations(ca_certs)
    except ssl.SSLError as error:
        raise TLSError(f"can't use the certificates in {ca_certs}: {_reason(error)}") from None


def _check_pem(path: str, label: str, name: str) -> None:
    """Raise `TLSError` for a file that isn't there or has nothing of this label (RFC 7468): OpenSSL wouldn't say so."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise TLSError(f"can't read the {name} {path}: {error.strerror}") from error
    if label.encode() + b"-----" not in content:
        raise TLSError(f"{path} has no {name} in PEM form, which begins with BEGIN {label}")


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's word for it, as a person would write it; of what it can't parse it has none."""
    if not error.reason or error.library == "PEM":
        return "it is damaged, or of a kind OpenSSL doesn't know"
    return error.reason.replace("_", " ").lower()


class PlainTextError(ConnectionAbortedError):
    """The peer doesn't speak TLS: what it has sent begins as a request does."""


class TLSSocket(socket.socket):
    """An accepted socket that speaks TLS and doesn't block. It takes over `sock`, which is of no use any more.

    Args:
        sock: the accepted socket.
        context: the server's.
        outgoing: what TLS writes to, for all sockets of one thread; it grows to what the largest step needs. None: it
            has its own.

    `handshake` comes first. Then `recv`, `send` and `sendmsg` do what a plain socket's do, and fail as those do:
    `BlockingIOError` when they would wait, `OSError`, which `ssl.SSLError` is, when the connection is of no use any
    more. All else is a plain socket's; `recv_into` so gives what is encrypted, for who only wants to read it away.

    Attributes:
        secured: whether the handshake is over, and nothing has failed since.
        ended: whether the peer will send nothing more, by its own word or by TCP's.
    """

    __slots__ = (
        "_contents",
        "_drained",
        "_fruitless",
        "_goodbye",
        "_incoming",
        "_left",
        "_outgoing",
        "_owed",
        "_tls",
        "_unsent",
        "ended",
        "secured",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, outgoing: ssl.MemoryBIO | None = None) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        try:
            self.setblocking(False)
            self._incoming = ssl.MemoryBIO()
            self._outgoing = ssl.MemoryBIO() if outgoing is None else outgoing
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        except BaseException:
            self.close()
            raise
        # The kernel had less than was asked for: there is no more (epoll(7)), and what comes later makes an edge.
        self._drained = False
        # Records on their way to the kernel, and how much content each has.
        self._unsent: Buffers = []
        self._contents: list[int] = []
        # Content that is encrypted and was not yet reported as sent: the next send begins with it.
        self._owed = 0
        # TLS may hold content that there was no room for.
        self._left = False
        self._fruitless = 0
        self._goodbye = False
        self.secured = False
        self.ended = False

    @property
    def session(self) -> ssl.SSLObject:
        """What was agreed upon with the peer."""
        return self._tls

    def handshake(self) -> bool:
        """Go on with the handshake, as far as what has come allows it. True: it is over.

        Raises `PlainTextError` when the peer speaks HTTP without TLS, `OSError` for all else that fails.
        """
        self._drained = False
        self._forget_foreign()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._push()
                if not self._feed():
                    break
            except ssl.SSLError:
                self._say_why()
                raise
            else:
                self.secured = True
                # The last words of a handshake: the peer of TLS 1.2 waits for them.
                return self._push()
        if self.ended:
            raise ConnectionResetError("the peer has gone before the handshake was over")
        return False

    def send_plain(self, data: bytes) -> int:
        """Send what isn't encrypted, to a peer whose handshake has failed; give how much of it. Raises `OSError`."""
        return super().send(data)

    # the way in

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Content, `size` bytes of it at most. Fewer: nothing more is here. b"": nor will there ever be."""
        content, count = b"", 0
        more: memoryview | None = None
        self._drained = False
        self._forget_foreign()
        while count < size and (self._left or self._incoming.pending or self._feed()):
            if not count:
                content = self._decrypt(min(size, CONTENT_SIZE))
                count = len(content)
                continue
            if more is None:
                # Not a list: of records of two bytes it would weigh many times its content.
                more = memoryview(bytearray(size))
                more[:count] = content
            count += self._decrypt(size - count, more[count:])
        # A record may have more than there was room for: it is in TLS already, and no edge reports it.
        self._left = count == size
        if self._outgoing.pending:
            self._answer()
        if not count and not self.ended:
            raise BlockingIOError
        return content if more is None else bytes(more[:count])

    def _feed(self) -> bool:
        """Give TLS more of what came. False: nothing more is here."""
        if self._drained or self.ended:
            return False
        try:
            data = super().recv(READ_SIZE)
        except BlockingIOError:
            return False
        self._drained = len(data) < READ_SIZE
        if not data:
            self.ended = True
            return False
        if not self.secured and not self._fruitless and data[0] in LETTERS:
            raise PlainTextError("the peer speaks without TLS")
        self._fruitless += len(data)
        if self._fruitless > FRUITLESS_SIZE:
            raise ConnectionAbortedError("the peer sends nothing but what TLS needs for itself")
        self._incoming.write(data)
        return True

    @overload
    def _decrypt(self, size: int) -> bytes: ...

    @overload
    def _decrypt(self, size: int, buffer: memoryview) -> int: ...

    def _decrypt(self, size: int, buffer: memoryview | None = None) -> bytes | int:
        """Content of one record, or how much of it is in `buffer` now.

        Nothing: TLS wants more, or the peer has said that this was all.
        """
        content: bytes | int = b"" if buffer is None else 0
        try:
            content = self._tls.read(size, buffer)
        except ssl.SSLWantReadError:
            self._left = False
            return content
        except ssl.SSLZeroReturnError:
            pass  # as without the exception; which of both depends on whether we have said goodbye
        except ssl.SSLError:
            self._say_why()
            raise
        self._fruitless = 0
        if not content:
            self.ended = True
            self._left = False
            self._incoming.read()  # nothing counts that comes behind it
        return content

    def _answer(self) -> None:
        """Send what TLS itself has to say. It may wait for the next send, but not ever more of it."""
        if not self._push() and sum(map(len, self._unsent)) > FRUITLESS_SIZE:
            raise ConnectionAbortedError("the peer has TLS answer, and doesn't read it")

    # the way out

    def send(self, data: Any, flags: int = 0) -> int:
        """Send content; give how much of it the kernel took. Not all: it is full, and an edge comes when it isn't.

        What isn't taken must be the beginning of the next send. flags: without effect.
        """
        return self._send([data] if len(data) <= ENCRYPT_SIZE and not self._owed else steps([data], self._owed))

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        """`send` of several buffers. ancdata, flags, address: without effect."""
        return self._send(steps(buffers, self._owed))

    def _send(self, pieces: Iterable[bytes | memoryview]) -> int:
        """Encrypt pieces of content and send them, behind what is encrypted already. Gives what counts as sent."""
        content = self._owed
        self._forget_foreign()
        unsent, contents = self._unsent, self._contents
        write, take = self._tls.write, self._outgoing.read
        ahead = sum(map(len, unsent))
        # What waits from before goes along with what is made now: each call of the kernel wakes the peer.
        if ahead >= AHEAD_SIZE and self._push():
            ahead = 0
        if ahead < AHEAD_SIZE:
            for piece in pieces:
                length = len(piece)
                size = write(piece)
                while size < length:
                    size += write(memoryview(piece)[size:])
                unsent.append(take())
                contents.append(length)
                content += length
                ahead += length
                if ahead > AHEAD_SIZE:
                    if not self._push():
                        break
                    ahead = 0
            else:
                self._push()
        self._owed = sum(contents)
        if content == self._owed:
            raise BlockingIOError
        return content - self._owed

    def notify_close(self) -> bool:
        """Tell the peer that this was all (RFC 8446, 6.1). False: it waits for the kernel; call again at the edge."""
        self._forget_foreign()
        if self.secured and not self._goodbye:
            self._goodbye = True
            with contextlib.suppress(ssl.SSLError):  # it asks for the peer's own goodbye, which nobody waits for
                self._tls.unwrap()
        return self._push()

    def _forget_foreign(self) -> None:
        """Drop what a socket has left that failed in the middle of a step: it is of no use any more."""
        if self._outgoing.pending:
            self._outgoing.read()

    def _push(self) -> bool:
        """Give the kernel what is encrypted. False: it is full, and some waits."""
        unsent, contents = self._unsent, self._contents
        if self._outgoing.pending:
            unsent.append(self._outgoing.read())
            contents.append(0)
        while unsent:
            offered = unsent[:SENDMSG_BUFFERS]
            size = sum(map(len, offered))
            try:
                taken = super().send(offered[0]) if len(offered) == 1 else super().sendmsg(offered)
            except BlockingIOError:
                return False
            if taken < size:
                discard_sent(unsent, taken)
                del contents[: len(contents) - len(unsent)]
                # A part was taken, and counts: a slow peer must be seen to read.
                contents[0] = min(contents[0], len(unsent[0]))
                return False
            del unsent[: len(offered)], contents[: len(offered)]
        return True

    def _say_why(self) -> None:
        """TLS has failed: send its alert, if it has one."""
        self.secured = False
        with contextlib.suppress(OSError):
            self._push()


def steps(buffers: Iterable[bytes | memoryview], skipped: int) -> Iterator[bytes | memoryview]:
    """Give content in pieces to be encrypted in one step each.

    Small buffers are joined, with the beginning of a large one behind them, to whole records. Large ones aren't copied.

    Args:
        buffers: what is to be encrypted.
        skipped: bytes at the beginning that are left out.
    """
    joined: Buffers = []
    size = 0
    for buffer in buffers:
        at, end = min(skipped, len(buffer)), len(buffer)
        skipped -= at
        while at < end:
            if not joined and end - at >= CONTENT_SIZE:
                whole = memoryview(buffer)
                for begin in range(at, end - CONTENT_SIZE + 1, ENCRYPT_SIZE):
                    at = begin + ENCRYPT_SIZE
                    yield whole[begin:at]
                continue
            piece = memoryview(buffer)[at : at + CONTENT_SIZE - size]
            at += len(piece)
            joined.append(piece)
            size += len(piece)
            if size == CONTENT_SIZE:
                yield b"".join(joined)
                joined, size = [], 0
    if joined:
        yield b"".join(joined)


def reason_of(error: OSError) -> str:
    """Why it failed, in OpenSSL's own words."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)
