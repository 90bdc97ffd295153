"""A real browser, without a screen: headless Chromium, where it is installed (`apt-get install chromium`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")


class Seen(NamedTuple):
    markup: str
    """The page as the browser has it in the end."""
    said: str
    """Its log; what scripts and policies complain about is a line with CONSOLE."""


def browse(url: str, profile: Path, *, seconds: int = 5, size: str = "1240,940", picture: Path | None = None) -> Seen:
    """Open a page, and let it run for some seconds of its own time, which pass quickly.

    Args:
        url: of the page.
        profile: an empty folder, for what the browser keeps.
        seconds: after which it is looked at.
        size: of the window, in pixels.
        picture: a file to draw the page into, as PNG.
    """
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",  # root has none, and in a container there often is none
        "--disable-gpu",
        "--disable-quic",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={profile / 'profile'}",
        f"--virtual-time-budget={seconds * 1000}",
        f"--window-size={size}",
    ]
    environment = {**os.environ, "HOME": str(profile)}
    wanted = [[f"--screenshot={picture}"]] if picture else []
    for each in [*wanted, ["--dump-dom"]]:
        done = subprocess.run(
            [*command, *each, url], capture_output=True, text=True, timeout=60, check=True, env=environment
        )
    return Seen(done.stdout, done.stderr)
