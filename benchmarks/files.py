"""A file of 64 KiB, served by hypoll or, as `python -m benchmarks.files`, by nginx on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import end_on_term
from hypoll import Routes
from hypoll.web.static import Static

NAME = "64k.bin"
SIZE = 64 * 1024
START_TIMEOUT = 5.0

# What nginx does by default, but for its log of requests, which hypoll doesn't write either.
CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 100000000;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    server {{
        listen 127.0.0.1:{port};
        location /files/ {{ alias {root}/files/; }}
    }}
}}
"""


def make_files(root: Path) -> Path:
    """Make a directory with the file below `root`."""
    root.chmod(0o755)  # nginx's worker isn't root
    directory = root / "files"
    directory.mkdir()
    (directory / NAME).write_bytes(os.urandom(SIZE))
    return directory


_temporary = tempfile.TemporaryDirectory(prefix="hypoll-bench-")  # removed when the process ends
DIRECTORY = make_files(Path(_temporary.name))

routes = Routes()
routes.get("/files/{path:path}")(Static(DIRECTORY))


def free_port() -> int:
    """A port that nobody listens on at the moment: nginx can't choose one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until it accepts connections. False: it has ended, or doesn't within `START_TIMEOUT`."""
    end = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return True
    return False


def main() -> int:
    """Run nginx in the foreground until TERM; print its URL when it accepts."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        print("nginx isn't installed: scripts/bench does it", file=sys.stderr)
        return 1
    end_on_term()
    root, port = DIRECTORY.parent, free_port()
    (root / "nginx.conf").write_text(CONFIG.format(port=port, root=root))
    process = subprocess.Popen([program, "-p", root, "-c", "nginx.conf"])
    try:
        if not wait_for(process, port):
            return 1
        print(f"nginx serves http://127.0.0.1:{port}", flush=True)
        return process.wait()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
