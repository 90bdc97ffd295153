"""Who is measured, as data: a row more in `CONTESTANTS` is all that another measurement needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FLOOR = HERE / "floor"
SOCKETS = HERE / "sockets"
"""The client of the rows of WebSockets."""

ENVIRONMENT = HERE / "peers-env"
"""Where the peers are installed, apart from hypoll."""

PEERS_PYTHON = str(ENVIRONMENT / "bin" / "python")

PYTHON = "{python}"
"""Stands in a command for the interpreter to be measured."""


WORKER = "hypoll.gunicorn_worker.Worker"


def hypoll(app: str, *options: str, module: str = "hypoll") -> tuple[str, ...]:
    """The command that serves an application, of `benchmarks.app` unless it names its module, on a free port.

    It logs no requests unless that is asked for, as the peers don't.
    """
    where = app if ":" in app else f"benchmarks.app:{app}"
    quiet = () if "--access-log" in options else ("--access-log", "off")
    return (PYTHON, "-m", module, where, "--bind", "127.0.0.1:0", *quiet, *options)


def gunicorn(app: str, *options: str) -> tuple[str, ...]:
    """The command that serves an application by one gunicorn worker on a free port."""
    return (PYTHON, "-m", "gunicorn", app, "--bind", "127.0.0.1:0", "--no-control-socket", *options)


LOG = "{log}"
"""Stands in a command for a file that lasts as long as the server."""

ACCESS_LOG = ("--access-log", "json", "--access-log-file", LOG)

CERTFILE = "{certfile}"
"""Stands in a command for a certificate that is made for the run."""

KEYFILE = "{keyfile}"
"""Stands in a command for the key of that certificate."""


@dataclass(frozen=True)
class Contestant:
    """A server and the requests it gets.

    command: starts the server, which must print its URL, `http://127.0.0.1:PORT`; `https` if it names `CERTFILE`.
    path: the target that is asked for, where the traffic doesn't say.
    traffic: the kind of `traffic.lua`.
    connections: of the client, when other than asked for.
    base: the key of the contestant that its CPU is compared with.
    beyond: the key of a contestant whose CPU isn't counted: what this one costs more, in multiples of the base's.
    must, aim: the most its CPU a request may be, and is meant to be, as a multiple of the base's.
    aims_at: the key of a contestant whose multiple in the same runs is the aim.
    part: a number and the key of a contestant: such a part of its multiple in the same runs is allowed, too, where that
        is more than `must`.
    below: the keys of contestants whose multiples in the same runs must be larger.
    packages: those of the peers' environment that the server needs. Where one can't be installed it isn't measured.
    table: the table that it is a row of, when that isn't the first.
    threads: several threads share the processor. That they wait for each other says nothing of the machine.
    message: bytes of a WebSocket's message, which is sent back; wrk has no part in such a row.
    """

    key: str
    title: str
    command: tuple[str, ...]
    path: str = "/json"
    traffic: str | None = None
    connections: int | None = None
    base: str = "floor"
    beyond: str | None = None
    must: float | None = None
    aim: float | None = None
    aims_at: str | None = None
    part: tuple[float, str] | None = None
    below: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    threads: bool = False
    table: str = ""
    message: int | None = None

    @property
    def has_limit(self) -> bool:
        """Whether there is something that it must not cost."""
        return self.must is not None or bool(self.below)

    @property
    def related(self) -> set[str]:
        """The keys of all contestants that it is compared with."""
        others = (self.base, self.beyond, self.aims_at, self.part and self.part[1], *self.below)
        return {key for key in others if key}

    @property
    def scheme(self) -> str:
        """The scheme of its URL."""
        return "https" if CERTFILE in self.command else "http"


OBSERVED = (*ACCESS_LOG, "--metrics", "/metrics", "--request-id")


def floor(traffic: str, connections: int | None = None) -> Contestant:
    """The floor, given some traffic."""
    key = f"floor-{traffic}"
    return Contestant(key, f"bare epoll in C: {traffic}", (str(FLOOR),), "/", traffic, connections, base=key)


def row(
    key: str, title: str, traffic: str, must: float, aim: float, app: str = "rows", *options: str, **more: Any
) -> Contestant:
    """A row of the table: hypoll, compared with the floor that does the same."""
    command = hypoll(app, *options)
    return Contestant(key, title, command, "/", traffic, base=f"floor-{traffic}", must=must, aim=aim, **more)


def peer(name: str, interface: str, *options: str, app: str = "") -> tuple[str, ...]:
    """The command that serves an application by a peer: that of the rows in `benchmarks.peer_apps`, or another."""
    named = ("--app", app) if app else ()
    return (PEERS_PYTHON, str(HERE / "peer_apps.py"), name, interface, *options, *named)


def tls_peer(name: str, title: str, *packages: str, **more: Any) -> Contestant:
    """A peer that speaks TLS: what hypoll is compared with there, as a bare responder would need a TLS library, too."""
    command = peer(name, "asgi", CERTFILE, KEYFILE)
    return Contestant(
        f"tls-{name}", title, command, "/", "download1m", FEW, base="tls-uvicorn", packages=packages, **more
    )


ASGI = "asgi:app"
"""The application of the ASGI rows, in this directory."""

FASTAPI = "with_fastapi:app"

ASGI_PEERS = {
    "uvicorn": ("uvicorn", "uvloop", "httptools"),
    "granian": ("granian", "uvloop"),
    "h2corn": ("h2corn", "uvloop"),
    "hypercorn": ("hypercorn", "uvloop"),
    "gunicorn": ("gunicorn", "uvloop"),
    "peregrine": ("peregrine-server",),
}
"""Servers of ASGI applications, and the packages that each needs."""

BEATEN = ("uvicorn", "granian", "h2corn", "hypercorn", "gunicorn")
"""Those of which each must cost more."""


def asgi_peers(traffic: str, title: str) -> list[Contestant]:
    """The peers, given some traffic."""
    return [
        Contestant(
            f"{traffic}-{name}",
            f"{title}, by {name}",
            peer(name, "asgi", app=ASGI),
            "/",
            traffic,
            base=f"floor-{traffic}",
            packages=("orjson", *packages),
            threads=name != "uvicorn",
            table="asgi",
        )
        for name, packages in ASGI_PEERS.items()
    ]


def asgi_row(key: str, title: str, traffic: str, must: float, *options: str, **more: Any) -> Contestant:
    """A row of the table of ASGI applications."""
    return Contestant(
        key,
        title,
        hypoll(f"benchmarks.{ASGI}", *options),
        "/",
        traffic,
        base=f"floor-{traffic}",
        must=must,
        below=tuple(f"{traffic}-{name}" for name in BEATEN),
        table="asgi",
        **more,
    )


ECHO = "echo:app"
"""The application of the WebSocket rows, in this directory."""

SOCKET_PEERS = {
    "uvicorn": ("uvicorn-sansio", ("uvicorn", "uvloop", "httptools", "websockets")),
    "gunicorn": ("gunicorn", ("gunicorn", "uvloop")),
}
"""Servers of WebSockets: how `peer_apps` calls them, and the packages that each needs."""

SOCKET_MESSAGES = (
    ("ws", "echo of 64 bytes", 64, 64, 0.8, ("ws-gunicorn",)),
    ("ws64k", "echo of 64 KiB", 65536, 16, 1.0, ()),
)
"""Key, title, bytes and connections; what hypoll may cost as a multiple of uvicorn, and who must cost more."""


def socket_rows() -> Iterator[Contestant]:
    """The rows of WebSockets: peers, then Routes and an ASGI application on hypoll, for each size of messages."""
    for key, title, size, connections, must, below in SOCKET_MESSAGES:
        common: dict[str, Any] = {"message": size, "connections": connections, "table": "websocket"}
        common["base"] = f"{key}-uvicorn"
        for name, (server, packages) in SOCKET_PEERS.items():
            command = peer(server, "asgi", app=ECHO)
            yield Contestant(f"{key}-{name}", f"{title}, by {name}", command, packages=packages, **common)
        for name, what, app in (("routes", "Routes", "echo"), ("asgi", "ASGI", f"benchmarks.{ECHO}")):
            row = f"{key}-{name}"
            yield Contestant(row, f"{title}, {what}", hypoll(app), must=must, below=below, **common)


FEW = 32
"""Connections where each request is a large one, or a connection of its own."""

CONTESTANTS = (
    floor("json"),
    floor("headers"),
    floor("unique"),
    floor("post"),
    floor("pipeline"),
    floor("close", FEW),
    floor("upload64k", FEW),
    floor("upload1m", FEW),
    row("unique", "as a proxy passes it on: nine fields, all new", "unique", 2.4, 1.8),
    row(
        "observed",
        "the same, with JSON log, metrics and ids: more",
        "unique",
        1.0,
        0.7,
        "rows",
        *OBSERVED,
        beyond="unique",
    ),
    row("json", "JSON, one field", "json", 1.7, 1.4),
    row("headers", "JSON, eight fields of a browser", "headers", 2.0, 1.7),
    row("post", "1.3 KiB of JSON decoded and encoded", "post", 2.3, 1.9),
    row("pipeline", "16 requests in a write", "pipeline", 9, 7),
    row("close", "a new connection for each request", "close", 1.9, 1.4, connections=FEW),
    row("upload64k", "upload of 64 KiB", "upload64k", 3, 2.3, connections=FEW),
    row("upload1m", "upload of 1 MiB", "upload1m", 4.5, 3, connections=FEW),
    row("threaded", "JSON, from a thread", "json", 1.8, 1.6, "threads", threads=True),
    row("async", "JSON, async on asyncio", "json", 2.1, 1.9, "tasks", "--no-uvloop"),
    row("async-uvloop", "JSON, async on uvloop", "json", 1.9, 1.7, "tasks"),
    tls_peer("uvicorn", "1 MiB down over TLS, by uvicorn", "uvicorn", "uvloop", "httptools"),
    tls_peer("granian", "1 MiB down over TLS, by granian", "granian", threads=True),
    Contestant(
        "tls",
        "1 MiB down over TLS",
        hypoll("rows", "--certfile", CERTFILE, "--keyfile", KEYFILE),
        "/",
        "download1m",
        FEW,
        base="tls-uvicorn",
        must=1.0,
        aims_at="tls-granian",
    ),
    *asgi_peers("json", "JSON"),
    asgi_row("asgi", "JSON, on uvloop", "json", 2.6, aims_at="json-peregrine", part=(0.6, "json-uvicorn")),
    asgi_row("asgi-asyncio", "JSON, on asyncio", "json", 3.0, "--no-uvloop", aim=2.5),
    *asgi_peers("unique", "nine fields, all new"),
    asgi_row(
        "asgi-unique",
        "nine fields, all new",
        "unique",
        3.2,
        aims_at="unique-peregrine",
        part=(0.6, "unique-uvicorn"),
    ),
    *(
        Contestant(
            f"fastapi-{name}",
            f"FastAPI, one route, by {name}",
            peer(name, "asgi", app=FASTAPI),
            packages=("fastapi", *packages),
            base="floor-json",
            threads=name != "uvicorn",
            table="asgi",
        )
        for name, packages in ASGI_PEERS.items()
        if name in ("uvicorn", "granian")
    ),
    Contestant(
        "fastapi",
        "FastAPI, one route",
        # In the peers' environment: the same interpreter, and the same FastAPI.
        (PEERS_PYTHON, *hypoll(f"benchmarks.{FASTAPI}")[1:]),
        packages=("fastapi", "httptools", "uvloop", "orjson", "click", "gunicorn"),
        base="floor-json",
        below=("fastapi-uvicorn", "fastapi-granian"),
        table="asgi",
    ),
    *socket_rows(),
    Contestant("floor", "bare epoll in C", (str(FLOOR),)),
    Contestant("floor-level", "bare epoll in C, level-triggered", (str(FLOOR), "level")),
    Contestant("inline", "JSON", hypoll("hello")),
    Contestant("level", "JSON, level-triggered", hypoll("hello", module="benchmarks.level")),
    Contestant("worker", "JSON, as a gunicorn worker", gunicorn("benchmarks.app:hello", "-k", WORKER)),
    Contestant("wsgi", "JSON, from a WSGI application", hypoll("benchmarks.wsgi:app"), threads=True),
    Contestant(
        "gthread", "JSON, by gunicorn's gthread", gunicorn("benchmarks.wsgi:app", "--threads", "4"), threads=True
    ),
    Contestant("text", "text", hypoll("hello"), "/"),
    Contestant("params", "path parameters", hypoll("shop"), "/users/4711/orders/spring"),
    Contestant("large", "8 MiB", hypoll("shop"), "/large", connections=8),
    Contestant(
        "large-level", "8 MiB, level-triggered", hypoll("shop", module="benchmarks.level"), "/large", connections=8
    ),
    Contestant("nginx", "file of 64 KiB, by nginx", (PYTHON, "-m", "benchmarks.files"), "/files/64k.bin", base="nginx"),
    Contestant("file", "file of 64 KiB", hypoll("benchmarks.files:routes"), "/files/64k.bin", base="nginx", must=1.5),
)

BASELINE = "floor"


def choose(keys: list[str], table: str = "") -> list[Contestant]:
    """The contestants of these keys and their bases, in their own order; those of a table if there are no keys.

    Raises `KeyError`.
    """
    known = {contestant.key: contestant for contestant in CONTESTANTS}
    rows = {contestant.key for contestant in CONTESTANTS if contestant.has_limit and contestant.table == table}
    wanted = set(keys) or rows
    for key in list(wanted):
        wanted |= known[key].related
    return [contestant for contestant in CONTESTANTS if contestant.key in wanted]
