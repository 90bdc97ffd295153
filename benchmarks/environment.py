"""Makes the Python environment that the peers are installed in, benchmarks/peers-env."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.contestants import ENVIRONMENT, PEERS_PYTHON

PACKAGES = (
    "uvicorn",
    "uvloop",
    "httptools",
    "granian",
    "bjoern",
    "fastpysgi",
    "freastal",
    "peregrine-server",
    "h2corn",
    "gunicorn",
)


def install(python: str, packages: Sequence[str] = PACKAGES) -> list[str]:
    """Install packages into the environment, which is made if it isn't there.

    python: the interpreter that it is made with.

    Returns the packages that can't be installed here.
    """
    if not ENVIRONMENT.exists():
        subprocess.run([python, "-m", "venv", ENVIRONMENT], check=True)
    print(f"installing {', '.join(packages)} into {ENVIRONMENT} ...", file=sys.stderr, flush=True)
    pip = [PEERS_PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    return [name for name in packages if subprocess.run([*pip, name], capture_output=True, check=False).returncode]


def installed() -> set[str]:
    """The packages that the environment has: none, where it isn't there. A measurement installs what its rows need."""
    found = ENVIRONMENT.glob("lib/python*/site-packages/*.dist-info")
    return {path.name.partition("-")[0].replace("_", "-").lower() for path in found}
