"""Django keeps a database connection a thread: it must be used and closed on the one of its request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.gunicorn import ROOT

PROJECT = """
import sys, threading
import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1], "CONN_MAX_AGE": 0}},
    SECRET_KEY="x",
)
django.setup()

from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import StreamingHttpResponse
from django.urls import path

begun = threading.local()
faults = []
closed = []
close = BaseDatabaseWrapper.close

def note(self):
    if self.connection is not None:
        closed.append(threading.get_ident())
    close(self)

BaseDatabaseWrapper.close = note
request_started.connect(lambda **_: setattr(begun, "request", True), weak=False)

def finish(**_):
    if not getattr(begun, "request", False):
        faults.append("request_finished on a thread that has begun no request")

request_finished.connect(finish, weak=False)

def rows(request, number):
    def pieces():
        with connection.cursor() as cursor:
            cursor.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 6) SELECT i FROM n")
            for _ in cursor:
                yield f"{number} "
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return StreamingHttpResponse(pieces())

urlpatterns = [path("<int:number>", rows)]

from concurrent.futures import ThreadPoolExecutor
import requests
from hypoll.testing import TestClient
from tests.support.clock import PATIENCE

with TestClient(get_wsgi_application(), threads=4) as client:
    with ThreadPoolExecutor(20) as pool:
        texts = list(pool.map(lambda n: requests.get(f"{client.base_url}/{n}", timeout=PATIENCE).text, range(40)))
assert texts == [f"{number} " * 6 for number in range(40)], texts
assert faults == [], faults
assert len(closed) == 40, len(closed)
print("well")
"""


def test_connections_are_used_and_closed_on_their_requests_thread(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    ended = subprocess.run(
        [sys.executable, "project.py", str(tmp_path / "db.sqlite3")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "well\n", ended.stderr
    assert "Traceback" not in ended.stderr
