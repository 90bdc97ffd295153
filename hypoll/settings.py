"""Every option once: its name, default, unit and meaning.

The command line, the environment names and gunicorn's mapping are derived from the fields of `Settings`; nothing
else in hypoll states a default.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from hypoll.option import GIB, KIB, MIB, Option
from hypoll.proxy.networks import Networks

CERT_REQS = ("none", "optional", "required")
"""Whether clients are asked for a certificate, and must have one."""


def _option(default: Any, meaning: str, **more: Any) -> Any:
    """A field for an option. more: as of `Option`."""
    return dataclasses.field(default=default, metadata={"help": meaning, **more})


def _check_path(value: str) -> None:
    """Hold a URL path an endpoint is to answer at, empty for nowhere. Raises `ValueError`."""
    if value and not re.fullmatch(r"/[A-Za-z0-9._~/-]*", value):
        meant = value if re.fullmatch(r"[A-Za-z0-9._~/-]+", value) else "healthz"
        raise ValueError(f"it must be a path of letters, digits and . _ ~ - that begins with a slash, as in /{meant}")


def _check_paths(values: tuple[str, ...]) -> None:
    for value in values:
        _check_path(value)


def _check_addresses(values: tuple[str, ...]) -> None:
    for value in values:
        if value.startswith("fd://") and values.count(value) > 1:
            raise ValueError(f"{value} twice: a descriptor is served once")


def _check_pairs(values: tuple[str, ...]) -> None:
    for value in values:
        if not re.fullmatch(r"[A-Za-z0-9-]+=.+", value):
            raise ValueError("give a field's name and the value that means https, as X-Forwarded-Ssl=on")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a server. Times are in seconds, sizes in bytes.

    Raises:
        ValueError: For a value out of range.
        TypeError: For one of another kind.
    """

    bind: tuple[str, ...] = _option(
        ("127.0.0.1:8000",),
        "Where to listen: HOST:PORT, [::1]:PORT, unix:/PATH or fd://N. May be repeated. Not given, sockets that "
        "systemd passes are taken. [::] is IPv6 alone, a name its IPv4 address if it has one, no host all of IPv4.",
        metavar="ADDRESS",
        least=1,
        check=_check_addresses,
    )
    backlog: int = _option(4096, "Connections the kernel may queue before they are accepted (listen(2)).", least=1)
    reuse_port: bool = _option(False, "Set SO_REUSEPORT, so that several processes can bind the same port.")
    max_connections: int = _option(
        0, "Connections served at once; one more is refused with 503. 0: the descriptor limit less a reserve."
    )
    certfile: str = _option(
        "", "Speak TLS, with the certificate in this PEM file and those between it and the root.", metavar="FILE"
    )
    keyfile: str = _option("", "The certificate's key in PEM form. Default: it is in --certfile, too.", metavar="FILE")
    cert_reqs: str = _option("none", "Whether clients need a certificate of their own.", choices=CERT_REQS)
    ca_certs: str = _option("", "The certificates that those of clients must lead to, in PEM form.", metavar="FILE")
    ciphers: str = _option("", "The ciphers of TLS 1.2, as `openssl ciphers` takes them.", metavar="CIPHERS")
    keep_alive: float = _option(
        75.0, "How long a connection may be idle between requests. 0: each answer is its connection's last.", unit="s"
    )
    header_timeout: float = _option(10.0, "How long a request head may take, from its first byte: 408.", unit="s")
    body_timeout: float = _option(
        30.0, "How long a body may pause: 408. One that is older must average at least --min-body-rate.", unit="s"
    )
    min_body_rate: int = _option(500, "The least average rate of a body that outlives --body-timeout.", unit="B/s")
    write_timeout: float = _option(30.0, "How long a client may take none of the answer waiting for it.", unit="s")
    graceful_timeout: float = _option(30.0, "How long requests under way may take to finish after TERM.", unit="s")
    drain_keep_alive: float = _option(
        2.0,
        "How long after TERM an idle connection may bring one more request, which a proxy may have sent already.",
        unit="s",
    )
    max_head: int = _option(
        16 * KIB, "The largest request head: 431, or 414 when its target alone is too long.", unit="bytes", least=64
    )
    max_line: int = _option(0, "The largest request line: 414. 0: as large as --max-head allows.", unit="bytes")
    max_field: int = _option(
        0, "The largest line of a header field: 431. 0: as large as --max-head allows.", unit="bytes"
    )
    max_headers: int = _option(100, "The most fields in a request head: 431.", least=1)
    max_body: int = _option(
        16 * MIB, "The largest request body: 413, by Content-Length before it is read.", unit="bytes"
    )
    body_memory: int = _option(
        256 * MIB,
        "Memory for all request bodies that are kept whole, by what came of them; one more is 503 before it is read, "
        "413 if it would never fit.",
        unit="bytes",
    )
    max_output: int = _option(
        256 * KIB, "Output that may wait for a client before its next request has to wait.", unit="bytes", least=1
    )
    threads: int = _option(0, "Threads for threaded handlers. 0: the processors and 4, at most 32.")
    stream_threads: int = _option(
        64,
        "Threads, beside --threads, that wait for slow clients or stream for over a second; a further stream is "
        "refused with 503.",
    )
    queue: int = _option(1000, "Requests that may wait for a thread; one more is refused with 503.")
    spool_memory: int = _option(
        64 * MIB, "Memory for what waits for slow clients, and for the bodies of WSGI requests.", unit="bytes"
    )
    spool_disk: int = _option(
        1 * GIB, "Disk for the same, where the memory doesn't do. Beyond both threads and uploads wait.", unit="bytes"
    )
    spool_dir: str = _option(
        "", "The directory of that, on a disk. Default: TMPDIR, or else /var/tmp.", metavar="DIRECTORY"
    )
    wsgi_stream: bool = _option(
        False, "Call a WSGI application when the head is whole, and let it wait for the body on its thread."
    )
    interface: str = _option(
        "auto",
        "What an application that isn't Routes is called as: auto tells it by its signature.",
        choices=("auto", "asgi", "wsgi"),
    )
    factory: bool = _option(False, "Call ATTRIBUTE without arguments: it makes the application.")
    lifespan: str = _option(
        "auto",
        "Whether an ASGI application is asked to start and to shut down: auto asks, and goes on where that fails.",
        choices=("auto", "on", "off"),
    )
    early_hints: bool = _option(False, "Let an ASGI application send interim responses of status 103 (RFC 8297).")
    slow_callback: float = _option(
        0.1, "Log a handler that holds the loop for longer, with its stack. 0: don't look.", unit="s"
    )
    uvloop: bool = _option(True, "Run async handlers on uvloop when it is installed.")
    script_name: str = _option(
        "",
        "The path that the application is below: SCRIPT_NAME of a WSGI, root_path of an ASGI application. Without it "
        "the environment's SCRIPT_NAME is taken.",
        metavar="PATH",
        check=_check_path,
    )
    ws_max_message: int = _option(
        16 * MIB, "The largest message of a WebSocket, inflated: it is closed with 1009.", unit="bytes", least=125
    )
    ws_max_queue: int = _option(
        32, "Messages of a WebSocket that may wait for the application; while one does, nothing is read.", least=1
    )
    ws_ping_interval: float = _option(20.0, "How often a WebSocket's peer is sent a ping. 0: never.", unit="s")
    ws_ping_timeout: float = _option(
        20.0, "How long a WebSocket's peer may be silent after a ping: it is closed. 0: for ever.", unit="s"
    )
    ws_compression: bool = _option(True, "Deflate messages for WebSocket clients that offer it (RFC 7692).")
    access_log: str = _option(
        "auto",
        "A line for each request: text is the combined format and the duration; auto is text, but off where standard "
        "output is /dev/null.",
        choices=("auto", "off", "text", "json"),
    )
    access_log_file: str = _option("-", "Where the access log goes: a file, or - for standard output.", metavar="FILE")
    access_log_skip: tuple[str, ...] = _option(
        (), "A path that isn't logged, nor what is below it. May be repeated.", metavar="PATH", check=_check_paths
    )
    log_format: str = _option("text", "How errors and notices are written to standard error.", choices=("text", "json"))
    request_id: bool = _option(False, "Name each request in an X-Request-Id field of its answer.")
    metrics: str = _option(
        "", "Answer this path with metrics for Prometheus: needs hypoll[metrics].", metavar="PATH", check=_check_path
    )
    health: str = _option(
        "", "Answer PATH/live and PATH/ready, for a load balancer to ask.", metavar="PATH", check=_check_path
    )
    drain_wait: float = _option(
        0.0, "How long to go on accepting after TERM, with readiness at 503, before the drain.", unit="s"
    )
    status: str = _option(
        "", "Answer this path with a page that shows what the server does.", metavar="PATH", check=_check_path
    )
    status_allow: tuple[str, ...] = _option(
        ("127.0.0.0/8", "::1", "unix"),
        "Who may see the status page: a network, unix or *. May be repeated.",
        metavar="NETWORK",
        check=Networks,
    )
    admin_bind: str = _option(
        "",
        "Answer --metrics, --health and --status at this address, without TLS, and not where the application is.",
        metavar="ADDRESS",
    )
    forwarded_allow_ips: tuple[str, ...] = _option(
        ("127.0.0.1", "::1", "unix"),
        "Proxies whose word on the client is taken: a network, unix or *. May be repeated.",
        metavar="NETWORK",
        check=Networks,
    )
    secure_scheme_headers: tuple[str, ...] = _option(
        (),
        "A field, beside X-Forwarded-Proto and Forwarded, by whose value those proxies tell https, as "
        "X-Forwarded-Ssl=on. May be repeated.",
        metavar="FIELD=VALUE",
        check=_check_pairs,
    )
    proxy_protocol: bool = _option(
        False, "Expect the PROXY protocol, v1 or v2, from every peer; serve those of --proxy-allow-ips only."
    )
    proxy_allow_ips: tuple[str, ...] = _option(
        (),
        "Who may speak the PROXY protocol: a network, unix or *. None given: the proxies above. May be repeated.",
        metavar="NETWORK",
        check=Networks,
    )

    def __post_init__(self) -> None:
        for option in options():
            option.validate(getattr(self, option.name))


def settings_of(bind: object, options: Mapping[str, Any]) -> Settings:
    """The settings of a call that takes them as keywords.

    Args:
        bind: an address or several.
        options: the other fields of `Settings`, as they were given.

    Raises:
        TypeError: For what is no option, with the nearest that is, and for a value of another kind.
        ValueError: For a value that is out of range.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"there is no option {name!r}{f': is it {near[0]}?' if near else ''}")
    if not isinstance(bind, (str, tuple, list)):
        port = bind if isinstance(bind, int) and not isinstance(bind, bool) else 8000
        raise TypeError(f"bind is {bind!r}: it must be HOST:PORT, as '127.0.0.1:{port}', or several in a tuple")
    return Settings(bind=(bind,) if isinstance(bind, str) else tuple(bind), **options)


class ServerOptions(TypedDict, total=False):
    """The fields of `Settings` but `bind`, as keywords: for type checkers and editors.

    A test holds that they are the same.
    """

    backlog: int
    reuse_port: bool
    max_connections: int
    certfile: str
    keyfile: str
    cert_reqs: str
    ca_certs: str
    ciphers: str
    keep_alive: float
    header_timeout: float
    body_timeout: float
    min_body_rate: int
    write_timeout: float
    graceful_timeout: float
    drain_keep_alive: float
    max_head: int
    max_line: int
    max_field: int
    max_headers: int
    max_body: int
    body_memory: int
    max_output: int
    threads: int
    stream_threads: int
    queue: int
    spool_memory: int
    spool_disk: int
    spool_dir: str
    wsgi_stream: bool
    interface: str
    factory: bool
    lifespan: str
    early_hints: bool
    ws_max_message: int
    ws_max_queue: int
    ws_ping_interval: float
    ws_ping_timeout: float
    ws_compression: bool
    slow_callback: float
    uvloop: bool
    script_name: str
    access_log: str
    access_log_file: str
    access_log_skip: tuple[str, ...]
    log_format: str
    request_id: bool
    metrics: str
    health: str
    drain_wait: float
    status: str
    status_allow: tuple[str, ...]
    admin_bind: str
    forwarded_allow_ips: tuple[str, ...]
    secure_scheme_headers: tuple[str, ...]
    proxy_protocol: bool
    proxy_allow_ips: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The options of the command that concern its processes: how many serve, and how they are looked after."""

    workers: int | str = _option(
        0,
        "Processes that serve, under a master; 0: this one alone, without a master. auto: one for each CPU that the "
        "affinity and the cgroup's quota leave.",
        choices=("auto",),
    )
    worker_timeout: int = _option(
        30,
        "With --workers: how long a worker's loop may be stuck before it is killed, its stack in the log. 0: for ever.",
        unit="s",
    )
    max_requests: int = _option(0, "With --workers: requests after which a worker is replaced. 0: never.")
    max_requests_jitter: int = _option(0, "With --workers: up to how many more, by chance, a worker gets.")
    cpu_affinity: str = _option(
        "off",
        "With --workers: auto pins each worker to a CPU of its own, before the application is loaded.",
        choices=("off", "auto"),
    )
    reload: bool = _option(False, "Serve anew when a Python file below --app-dir changes: for development only.")

    @staticmethod
    def of_workers() -> list[str]:
        """The options that mean nothing without workers."""
        return [option.name for option in options(Processes) if option.name not in ("workers", "reload")]


def options(of: type[Settings | Processes] = Settings) -> list[Option]:
    """Every option of `Settings`, or of `Processes`, in the order a person reads them."""
    return [Option(field.name, field.default, **field.metadata) for field in dataclasses.fields(of)]


GROUPS = {
    "bind": "Listening",
    "certfile": "TLS",
    "keep_alive": "Times",
    "max_head": "Limits",
    "threads": "Threads and memory",
    "wsgi_stream": "Applications",
    "ws_max_message": "WebSockets",
    "access_log": "Logs",
    "metrics": "Metrics, health and status",
    "forwarded_allow_ips": "Proxies",
}
"""What the options of a server are about, by the first of each group."""


def groups() -> dict[str, list[Option]]:
    """The options of a server by what they are about, in the order a person reads them."""
    found: dict[str, list[Option]] = {}
    title = ""
    for option in options():
        title = GROUPS.get(option.name, title)
        found.setdefault(title, []).append(option)
    return found


def variable(name: str) -> str:
    """The environment's name of an option."""
    return f"HYPOLL_{name.upper()}"


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The options that the environment sets, for `Settings`. Raises `ValueError` naming a variable that is wrong."""
    found: dict[str, Any] = {}
    for option in options():
        text = environ.get(variable(option.name), "")
        if text:
            try:
                found[option.name] = option.parse(text)
            except (ValueError, KeyError):
                raise ValueError(f"{variable(option.name)} is {text!r}: it must be {option.wanted}") from None
    return found
