"""Real proxies before one backend: each pools its connections to it, and runs until the block ends.

Their configurations are as short as each allows: what a proxy does by default is what is to be tried.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PATIENCE = 15.0
"""Seconds after which a proxy that hasn't started, or hasn't ended, is given up."""

APACHE_MODULES = Path("/usr/lib/apache2/modules")
"""Where Debian's apache2-bin puts them."""


class Sides(NamedTuple):
    """A directory of the proxy's own, the port it listens on, and that of its backend."""

    directory: Path
    front: int
    back: int

    def write(self, name: str, text: str) -> str:
        """Write a file of the configuration, with the ports and the directory filled in; give its path."""
        path = self.directory / name
        values = (("{FRONT}", self.front), ("{BACK}", self.back), ("{DIR}", self.directory))
        for mark, value in values:
            text = text.replace(mark, str(value))
        path.write_text(text)
        return str(path)


NGINX = """
daemon off;
worker_processes 1;
pid {DIR}/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path {DIR}/body;
    proxy_temp_path {DIR}/proxy;
    fastcgi_temp_path {DIR}/fastcgi;
    uwsgi_temp_path {DIR}/uwsgi;
    scgi_temp_path {DIR}/scgi;
    include {DIR}/site.conf;
}
"""

NGINX_SITE = """
client_max_body_size 0;
upstream back {
    server 127.0.0.1:{BACK};
    keepalive 32;
}
server {
    listen 127.0.0.1:{FRONT};
    location / {
        proxy_pass http://back;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_request_buffering off;
    }
}
"""


def nginx(sides: Sides, site: str = NGINX_SITE) -> list[str]:
    """Bodies are passed on as they come: buffered, they would have a length, and be refused by it."""
    sides.write("site.conf", site)
    return ["nginx", "-p", str(sides.directory), "-e", "stderr", "-c", sides.write("nginx.conf", NGINX)]


HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 60s

frontend front
    bind 127.0.0.1:{FRONT}
    default_backend back

backend back
    {REUSE}
    server back 127.0.0.1:{BACK}
"""


def haproxy(sides: Sides, reuse: str = "") -> list[str]:
    """Its defaults reuse connections, too: `http-reuse safe`."""
    return ["haproxy", "-db", "-f", sides.write("haproxy.cfg", HAPROXY.replace("{REUSE}", reuse))]


APACHE = """
ServerRoot {DIR}
ServerName localhost
DefaultRuntimeDir {DIR}
PidFile {DIR}/apache.pid
Mutex file:{DIR} default
ErrorLog /dev/stderr
Listen 127.0.0.1:{FRONT}
{MODULES}
{USER}
ServerLimit 1
StartServers 1
ThreadsPerChild 64
MaxRequestWorkers 64
MaxKeepAliveRequests 0
ProxyPass / http://127.0.0.1:{BACK}/
"""


def apache(sides: Sides) -> list[str]:
    """mod_proxy_http; one process, so that there is one pool, and more threads than the tests have clients."""
    names = ("mpm_event", "authz_core", "proxy", "proxy_http")
    modules = "\n".join(f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in names)
    user = "User nobody\nGroup nogroup" if os.getuid() == 0 else ""
    text = APACHE.replace("{MODULES}", modules).replace("{USER}", user)
    return ["apache2", "-D", "FOREGROUND", "-d", str(sides.directory), "-f", sides.write("apache.conf", text)]


CADDY = """
{
    admin off
    auto_https off
}
http://:{FRONT} {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{BACK}
}
"""


def caddy(sides: Sides) -> list[str]:
    """Its defaults."""
    return ["caddy", "run", "--adapter", "caddyfile", "--config", sides.write("Caddyfile", CADDY)]


VARNISH = """
vcl 4.1;
backend back {
    .host = "127.0.0.1";
    .port = "{BACK}";
}
sub vcl_recv {
    return (pass);
}
"""


def varnish(sides: Sides) -> list[str]:
    """It caches nothing: each request goes to the backend."""
    own = ["-j", "none", "-n", str(sides.directory / "varnish"), "-s", "malloc,32m"]
    return ["varnishd", "-F", *own, "-a", f"127.0.0.1:{sides.front}", "-f", sides.write("back.vcl", VARNISH)]


PROXIES: dict[str, Callable[[Sides], list[str]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "haproxy-aggressive": lambda sides: haproxy(sides, "http-reuse aggressive"),
    "apache": apache,
    "caddy": caddy,
    "varnish": varnish,
}
"""What writes the configuration of each, and gives its command."""


def free_port() -> int:
    """A port that nobody listens on now: these proxies can't be handed a socket, nor say which port they got."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def proxy(name: str | Callable[[Sides], list[str]], back: int) -> Iterator[int]:
    """Run a proxy before the port `back`; gives its own port. It and its children end with the block.

    Args:
        name: one of `PROXIES`, or what writes another's configuration and gives its command.
        back: where hypoll listens.
    """
    with tempfile.TemporaryDirectory(prefix="hypoll-proxy-") as directory:
        # Apache's and nginx's workers are of another user, who must get into it.
        os.chmod(directory, 0o755)
        sides = Sides(Path(directory), free_port(), back)
        command = PROXIES[name](sides) if isinstance(name, str) else name(sides)
        program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, f"{command[0]} isn't installed: scripts/test --all installs it"
        with (sides.directory / "log").open("w+") as log:
            process = subprocess.Popen(
                [program, *command[1:]],
                env={**os.environ, "HOME": directory, "XDG_CONFIG_HOME": directory, "XDG_DATA_HOME": directory},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                _await_start(process, sides)
                yield sides.front
            finally:
                _end(process)


def _await_start(process: subprocess.Popen[bytes], sides: Sides) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", sides.front)) == 0:
                return
        said = (sides.directory / "log").read_text()
        assert process.poll() is None, said
        assert time.monotonic() < end, said
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it by TERM; what hasn't ended of its session then is killed."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
