"""What is asked of a server in production, of real processes: logs that hold nothing up and hold nothing false, ids,
proxies, metrics over workers, readiness before the end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, fetch
from tests.support.gunicorn import HYPOLL, PATIENCE, Launch, Load, Master, until
from tests.support.matrix import covering, some

APP = """
from hypoll import Routes

routes = Routes()

@routes.get("/")
def index(request):
    return {"client": request.client[0], "scheme": request.scheme, "host": request.host, "id": request.id}

@routes.get("/fails")
def fails(request):
    raise RuntimeError("the handler's own")
"""

LOGGED = ("--access-log", "json", "--access-log-file", "log")


@pytest.fixture
def start(launch: Launch) -> Launch:
    def start(*arguments: str, **how: Any) -> Master:
        return launch((*HYPOLL, "--bind", "127.0.0.1:0", *arguments), app=APP, **how)

    return start


def ask(port: int, target: str = "/", **fields: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, lower-case fields and document of an answer."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    status, told, body = fetch(("127.0.0.1", port), target, named, patience=PATIENCE)
    return status, told, json.loads(body) if "json" in told["content-type"] else {"text": body.decode()}


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The lines of a JSON log, once there are so many."""
    until(lambda: path.read_bytes().count(b"\n") >= count)
    return [json.loads(line) for line in path.read_text().splitlines()]


# logs and ids


def test_what_a_client_says_forges_neither_lines_nor_fields(start, tmp_path):
    master = start(*LOGGED, "--request-id")
    forged = '"}\\n{"status":200,"path":"/forged"}'
    ask(master.port, '/%0A%22,"status":200,"x":"', User_Agent=forged, X_Request_Id='a","status":200,"x":"')
    ask(master.port, "/", User_Agent="\x9b31m" + forged)
    first, second = lines(tmp_path / "log", 2)
    assert (first["status"], first["path"]) == (404, '/%0A%22,"status":200,"x":"')
    assert first["user_agent"] == forged
    assert re.fullmatch("[0-9a-f]{16}", first["request_id"])
    assert second["user_agent"] == "\\x9b31m" + forged
    assert second["path"] == "/"


def test_the_id_is_in_the_request_the_answer_the_logs_and_the_error(start, tmp_path):
    master = start(*LOGGED, "--request-id", "--log-format", "json")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    _, told, document = ask(master.port, X_Request_Id="my-own.1")
    assert (told["x-request-id"], document["id"]) == ("my-own.1", "my-own.1")
    _, told, document = ask(master.port, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert (told["x-request-id"], document["id"]) == (trace, trace)
    _, missing, document = ask(master.port, "/nothing")
    assert document["id"] == missing["x-request-id"]
    status, failed, document = ask(master.port, "/fails")
    assert (status, document["id"]) == (500, failed["x-request-id"])
    found = [line["request_id"] for line in lines(tmp_path / "log", 4)]
    assert found == ["my-own.1", trace, missing["x-request-id"], failed["x-request-id"]]
    said = json.loads(master.says("the handler's own").string)
    assert (said["level"], said["request_id"]) == ("error", failed["x-request-id"])


def test_an_id_of_64_kib_is_refused_with_another(start, tmp_path):
    master = start(*LOGGED, "--request-id")
    status, told, document = ask(master.port, X_Request_Id="a" * 65536)
    assert status == 431
    assert document["id"] == told["x-request-id"]
    (line,) = lines(tmp_path / "log", 1)
    assert (line["status"], line["request_id"], line["close"]) == (431, document["id"], "refused")


def test_an_id_that_is_too_long_to_be_taken_over_is_replaced(start):
    _, told, document = ask(start("--request-id").port, X_Request_Id="a" * 129)
    assert told["x-request-id"] == document["id"] != "a" * 129


def test_the_log_is_in_the_file_of_the_name_after_usr1(start, tmp_path):
    master = start(*LOGGED)
    ask(master.port)
    lines(tmp_path / "log", 1)
    (tmp_path / "log").rename(tmp_path / "old")
    master.signal(signal.SIGUSR1)
    until((tmp_path / "log").exists)
    ask(master.port)
    assert len(lines(tmp_path / "log", 1)) == len(lines(tmp_path / "old", 1)) == 1


def test_a_full_disk_costs_lines_and_no_request(start, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        master = start("--access-log", "json", "--access-log-file", "disk/log")
        for _ in range(150):
            assert ask(master.port, "/?" + "x" * 500)[0] == 200
        master.says("the access log can't be written to disk/log: No space left on device")
        for line in (disk / "log").read_text().splitlines():
            assert json.loads(line)["status"] == 200
        assert sum("No space left" in line for line in master.lines) == 1
        master.end()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("closed", some(["<&- >&- 2>&-", ">&-", "2>&-"], 1))
def test_closed_standard_streams_get_nothing_and_cost_nothing(tmp_path, closed):
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        command = f"exec {sys.executable} -m hypoll app:routes --bind fd://{fd} --access-log text {closed}"
        served = subprocess.Popen(["sh", "-c", command], cwd=tmp_path, pass_fds=(fd,), stderr=subprocess.DEVNULL)
    try:
        for _ in range(3):
            assert ask(port)[0] == 200
        assert ask(port, "/fails")[0] == 500
    finally:
        served.terminate()
        assert served.wait(PATIENCE) == 0


def test_a_log_that_nobody_reads_holds_up_no_request_and_says_what_is_missing(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        command = [sys.executable, "-m", "hypoll", "app:routes", "--bind", f"fd://{fd}", "--access-log", "json"]
        served = subprocess.Popen(
            command, cwd=tmp_path, pass_fds=(fd,), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    request = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 900)
    asked = 0
    with Client(("127.0.0.1", port)) as client:
        for _ in range(40):
            client.send(request * 50)
            asked += 50
            assert [client.answer().status for _ in range(50)] == [404] * 50
    served.terminate()
    assert served.stdout is not None
    with served.stdout:
        found = [json.loads(line) for line in served.stdout]
    assert served.wait(PATIENCE) == 0
    dropped = sum(line.get("dropped", 0) for line in found)
    assert dropped > 0
    assert sum("status" in line for line in found) + dropped == asked


# proxies


@pytest.mark.parametrize(
    ("allowed", "client", "scheme"), [("127.0.0.1", "203.0.113.9", "https"), ("192.0.2.1", "127.0.0.1", "http")]
)
def test_forwarding_fields_are_believed_of_trusted_peers_only(start, tmp_path, allowed, client, scheme):
    master = start(*LOGGED, "--forwarded-allow-ips", allowed)
    fields = {"X_Forwarded_For": "6.6.6.6, 203.0.113.9", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "shop.test"}
    _, _, document = ask(master.port, **fields)
    assert (document["client"], document["scheme"]) == (client, scheme)
    assert (document["host"] == "shop.test") is (scheme == "https")
    (line,) = lines(tmp_path / "log", 1)
    assert line["client"] == client


def test_the_status_page_is_not_for_whom_a_proxy_names(start):
    master = start("--status", "/-/status")
    assert ask(master.port, "/-/status.json")[0] == 200
    assert ask(master.port, "/-/status.json", X_Forwarded_For="203.0.113.9")[0] == 403


# several workers


def requests_of(text: str) -> int:
    return int(sum(float(value) for value in re.findall(r'^hypoll_requests_total\{.*route="/".*\} (\S+)$', text, re.M)))


def test_a_scrape_gives_the_sum_over_workers_the_dead_included_while_they_are_replaced(start):
    master = start("--workers", "2", "--metrics", "/metrics")
    master.says("Booting worker", 2)
    seen = [0]
    with Load(master.port) as load:
        until(lambda: sum(load.answers.values()) > 50)
        master.signal(signal.SIGHUP)
        while sum("Worker exiting" in line for line in master.lines) < 2:
            seen.append(requests_of(ask(master.port, "/metrics")[2]["text"]))
    assert load.failures == []
    assert seen == sorted(seen), "no counter is ever lost"
    # Until: the last answer is counted at the end of its turn, and another worker may be asked before.
    until(lambda: requests_of(ask(master.port, "/metrics")[2]["text"]) >= sum(load.answers.values()))
    until(lambda: "hypoll_workers 2.0" in ask(master.port, "/metrics")[2]["text"])


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_readiness_tells_of_the_end_before_it_begins(start, workers):
    master = start("--health", "/healthz", "--drain-wait", "0.7", *workers)
    until(lambda: ask(master.port, "/healthz/ready")[0] == 200)
    master.signal(signal.SIGTERM)
    until(lambda: ask(master.port, "/healthz/ready")[0] == 503)
    assert ask(master.port, "/healthz/live")[0] == 200
    assert ask(master.port)[0] == 200
    assert master.wait() == 0


def test_a_worker_that_is_replaced_does_not_wait(start):
    master = start("--workers", "1", "--health", "/healthz", "--drain-wait", "60")
    master.says("Booting worker")
    ask(master.port)
    master.signal(signal.SIGHUP)
    master.says("Worker exiting")
    assert ask(master.port, "/healthz/ready")[0] == 200


# what can't be had


UNWRITABLE = ("--access-log", "text", "--access-log-file", "no/such/log")
AMBIGUOUS = ("--metrics", "/a", "--status", "/a")


@pytest.mark.parametrize(("workers", "arguments"), covering([(), ("--workers", "1")], [UNWRITABLE, AMBIGUOUS]))
def test_what_can_not_be_had_is_one_sentence(start, arguments, workers):
    master = start(*arguments, *workers)
    words = {
        UNWRITABLE: "no/such/log can't be written: No such file",
        AMBIGUOUS: "two of --metrics, --health and --status answer /a",
    }[arguments]
    assert master.wait() in (1, 2)
    (line,) = [line for line in master.lines if line.startswith("Error: ")]
    assert words in line
    assert "Traceback" not in "".join(master.lines)
