"""The benchmarks measure what they say: the floor answers as many bytes as hypoll, what is read is read rightly."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import compare, idle, measure, peer_apps, syscalls
from benchmarks.compare import Cost
from benchmarks.contestants import CONTESTANTS, FLOOR, HERE, Contestant, choose, hypoll
from benchmarks.environment import installed
from benchmarks.measure import BenchmarkError, Cpu, Load

BY_KEY = {contestant.key: contestant for contestant in CONTESTANTS}
REQUEST = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def receive(port: int, path: str = "/json", context: ssl.SSLContext | None = None) -> bytes:
    """One answer, as long as its Content-Length says. context: for TLS."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1"))
        answer = stack.enter_context(sock.makefile("rb"))
        sock.sendall(REQUEST % path.encode())
        head = b"".join(iter(answer.readline, b"\r\n")) + b"\r\n"
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        assert length is not None
        return head + answer.read(int(length[1]))


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The floor, compiled."""
    program = tmp_path_factory.mktemp("floor") / "floor"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "floor.c"], check=True)
    return program


@pytest.mark.full
@pytest.mark.parametrize("mode", [(), ("level",)])
def test_the_floor_answers_as_many_bytes_as_hypoll(floor, mode):
    bare = Contestant("bare", "bare", (str(floor), *mode), "/json")
    with (
        measure.running(bare, sys.executable) as (_, floor_port),
        measure.running(BY_KEY["inline"], sys.executable) as (_, port),
    ):
        ours, floors = receive(port), receive(floor_port)
    date = re.compile(rb"Date: [^\r]+")
    assert date.sub(b"", ours) == date.sub(b"", floors)
    assert len(ours) == len(floors)


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client of the WebSocket rows, compiled."""
    program = tmp_path_factory.mktemp("sockets") / "sockets"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "sockets.c"], check=True)
    return program


@pytest.mark.full
def test_a_server_without_websockets_fails(sockets, monkeypatch):
    monkeypatch.setattr(measure, "SOCKETS", sockets)
    with (
        measure.running(BY_KEY["inline"], sys.executable) as (_, port),
        pytest.raises(BenchmarkError, match=r"the client of WebSockets failed: HTTP/1\.1 200 "),
    ):
        measure.load(BY_KEY["ws-routes"], port, measure.cores()[1], 1, 64, 7)


def test_without_its_client_the_rows_of_websockets_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SOCKETS", tmp_path / "sockets")
    with pytest.raises(BenchmarkError, match="scripts/bench compiles it"):
        measure.load(BY_KEY["ws-routes"], 1, 0, 1, 64, 7)


def test_websockets_have_a_table_of_their_own():
    rows = choose([], "websocket")
    assert [row.key for row in rows] == [
        *("ws-uvicorn", "ws-gunicorn", "ws-routes", "ws-asgi"),
        *("ws64k-uvicorn", "ws64k-routes", "ws64k-asgi"),
    ]
    peers = {"ws_uvicorn": [20.0], "ws_gunicorn": [14.0], "ws64k_uvicorn": [100.0]}
    own = {"ws_routes": [12.0], "ws_asgi": [17.0], "ws64k_routes": [101.0], "ws64k_asgi": [99.0]}
    assert compare.excesses(rows, by_key(**peers, **own)) == [
        "ws-asgi costs 0.85 times ws-uvicorn: more than 0.8",
        "ws-asgi costs 0.85 times ws-uvicorn: not less than ws-gunicorn with 0.70",
        "ws64k-routes costs 1.01 times ws64k-uvicorn: more than 1.0",
    ]


def test_the_level_triggered_variant_changes_its_registration_while_output_waits():
    with measure.running(BY_KEY["large-level"], sys.executable) as (_, port):
        assert len(receive(port, "/large")) > 8 * 1024 * 1024
        assert receive(port, "/users/7/orders/x").endswith(b'{"user":7,"order":"x"}')


@pytest.mark.full
def test_nginx_sends_a_file_as_long_as_hypolls():
    sizes = []
    for key in ("nginx", "file"):
        with measure.running(BY_KEY[key], sys.executable) as (pid, port):
            sizes.append(len(receive(port, BY_KEY[key].path).partition(b"\r\n\r\n")[2]))
            members = measure.family(pid)
        assert not any(Path(f"/proc/{member}").exists() for member in members)
    assert sizes == [64 * 1024] * 2


def test_over_tls_the_certificate_is_made_for_the_run(monkeypatch):
    made: list[str] = []

    def make(directory: Path) -> tuple[str, str]:
        files = make_certificate(directory)
        made.extend(files)
        return files

    make_certificate = measure.make_certificate
    monkeypatch.setattr(measure, "make_certificate", make)
    assert (BY_KEY["tls"].scheme, BY_KEY["json"].scheme) == ("https", "http")
    with measure.running(BY_KEY["tls"], sys.executable) as (_, port):
        answer = receive(port, "/download/100000", ssl.create_default_context(cafile=made[0]))
    assert answer.partition(b"\r\n\r\n")[2] == peer_apps.answer("GET", "/download/100000", b"")
    assert len(peer_apps.content(100_000)) == 100_000
    assert not any(Path(path).exists() for path in made)


def test_what_openssl_says_is_told(tmp_path):
    with pytest.raises(BenchmarkError, match=r"openssl failed: .*No such file"):
        measure.make_certificate(tmp_path / "missing")


def test_a_server_that_does_not_start_is_told_with_what_it_said():
    failing = Contestant("failing", "failing", ("{python}", "-c", "print('no such thing')"), "/")
    with pytest.raises(BenchmarkError, match="no such thing"), measure.running(failing, sys.executable):
        pass


def test_a_server_has_ended_when_its_context_is_left_by_an_error():
    with pytest.raises(RuntimeError), measure.running(BY_KEY["inline"], sys.executable) as (pid, port):
        raise RuntimeError
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ConnectionRefusedError):
        receive(port)


WRK = """Running 1s test @ http://127.0.0.1:8000/json
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   576.72us  110.19us   1.94ms   74.93%
    Req/Sec   111.40k     4.07k  116.21k    72.73%
  122012 requests in 1.10s, 17.69MB read
{}Requests/sec: 110952.33
Transfer/sec:     16.08MB
"""


def test_what_wrk_prints_is_read():
    assert measure.parse_wrk(WRK.format("")) == Load(122012, 110952.33)


@pytest.mark.parametrize(
    "failure",
    ["  Socket errors: connect 0, read 3, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 122012\n"],
)
def test_errors_that_wrk_saw_are_a_failure(failure):
    with pytest.raises(BenchmarkError, match=re.escape(failure.strip())):
        measure.parse_wrk(WRK.format(failure))


@pytest.mark.parametrize("text", ["", WRK.format("").replace("122012 requests", "0 requests")])
def test_no_requests_are_a_failure(text):
    with pytest.raises(BenchmarkError, match="no requests"):
        measure.parse_wrk(text)


def test_stat_is_read_behind_a_name_with_spaces_and_parentheses():
    text = "4711 (a ) (b) R 1 2 3 4 5 6 7 8 9 10 1234 567 0 0 20 0 1 0 99"
    assert measure.parse_stat(text) == (1234, 567)


def test_cpu_includes_children():
    child = "print('up', flush=True); import sys; sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        _, below = members = measure.family(process.pid)
        assert members[0] == process.pid
        assert measure.cpu(process.pid).total > measure.cpu(below).total > 0


def test_the_cost_of_a_request_is_the_time_used_divided():
    used = Cpu(3.0, 1.0, 2.0, 1.5).since(Cpu(1.0, 0.5, 0.5, 1.0))
    assert compare.cost(Load(100_000, 40_000.0), used)[:6] == pytest.approx((40_000.0, 20.0, 5.0, 15.0, 0.8, 0.2))


def test_contestants_of_one_base_take_turns_and_one_that_fails_leaves_the_others(monkeypatch):
    told: list[tuple[str, int, int]] = []
    used = dict.fromkeys(range(1, 10), 0.0)
    group = choose(["json", "threaded", "async"])
    keys = {number: contestant.key for number, contestant in enumerate(group, 1)}

    @contextlib.contextmanager
    def running(contestant: Contestant, *_: object) -> Iterator[tuple[int, int]]:
        number = next(number for number, key in keys.items() if key == contestant.key)
        if contestant.key == "async":
            raise BenchmarkError("it doesn't start")
        yield number, number

    def load(contestant: Contestant, port: int, core: int, seconds: int, connections: int, seed: int) -> Load:
        told.append((contestant.key, seconds, seed))
        used[port] += port * seconds  # as many microseconds a request as its number
        if contestant.key == "threaded" and seed == 8:
            raise BenchmarkError("it answers no more")
        return Load(1_000_000 * seconds, 1_000_000.0)

    monkeypatch.setattr(measure, "cores", lambda: (0, 1))
    monkeypatch.setattr(measure, "running", running)
    monkeypatch.setattr(measure, "load", load)
    monkeypatch.setattr(measure, "cpu", lambda pid: Cpu(used[pid], used[pid], 0.0, 0.0))
    outcomes = compare.run(group, "python", 3, 64, 7)
    assert [str(outcomes[key]) for key in ("async", "threaded")] == ["it doesn't start", "it answers no more"]
    assert outcomes["floor-json"] == Cost(1_000_000.0, 1.0, 1.0, 0.0, 1.0, 0.0)
    assert outcomes["json"] == Cost(1_000_000.0, 2.0, 2.0, 0.0, 2.0, 0.0)
    turns = [(key, seed) for key, _, seed in told[3:]]
    assert turns == [
        *(("floor-json", 7), ("json", 7), ("threaded", 7)),
        *(("floor-json", 8), ("json", 8), ("threaded", 8)),
        *(("floor-json", 9), ("json", 9)),
    ]


def costs(floors: list[float], inlines: list[float]) -> dict[str, list[Cost]]:
    return {
        key: [Cost(1e5, total, 1.0, total - 1, 1.0, 0.0) for total in totals]
        for key, totals in {"floor": floors, "inline": inlines}.items()
    }


def test_the_median_of_the_turns_counts():
    rows = choose(["inline"])
    measured = costs([6.0, 5.0, 10.0], [9.0, 7.0, 8.0])
    assert compare.ratios(BY_KEY["inline"], measured) == pytest.approx([1.5, 1.4, 0.8])
    text = compare.table(rows, measured)
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["floor", "inline"]
    assert text.splitlines()[-1].split()[-3:] == ["1.50", "1.40", "0.80"]


def by_key(**totals: list[float]) -> dict[str, list[Cost]]:
    return {
        key.replace("_", "-"): [Cost(1e5, total, 1.0, 1.0, 1.0, 0.0) for total in found]
        for key, found in totals.items()
    }


def test_a_row_over_its_limit_is_named():
    assert BY_KEY["json"].must == 1.7
    rows = choose(["json"])
    assert [row.key for row in rows] == ["floor-json", "json"]
    (sentence,) = compare.excesses(rows, by_key(floor_json=[5.0, 5.0, 5.0], json=[8.0, 8.6, 9.0]))
    assert sentence == "json costs 1.72 times floor-json: more than 1.7"
    assert compare.excesses(rows, by_key(floor_json=[5.0, 5.0, 5.0], json=[8.0, 8.4, 9.0])) == []


def test_what_a_row_costs_beyond_another_is_told_in_multiples_of_their_base():
    rows = choose(["observed"])
    assert [row.key for row in rows] == ["floor-unique", "unique", "observed"]
    measured = by_key(floor_unique=[6.0], unique=[12.0], observed=[21.0])
    assert compare.ratios(BY_KEY["observed"], measured) == [1.5]
    (sentence,) = compare.excesses(rows, measured)
    assert sentence == "observed costs 1.50 times floor-unique: more than 1.0"


def test_a_run_that_shared_its_processor_is_told():
    quiet, shaken = Cost(1e5, 5.0, 1.0, 4.0, 0.9, 0.0), Cost(1e5, 4.0, 1.0, 3.0, 0.9, 0.1)
    assert compare.disturbed(choose(["inline"]), {"floor": [quiet] * 3, "inline": [quiet, shaken, shaken]}) == [
        "inline"
    ]
    assert compare.disturbed(choose(["threaded"]), {"floor-json": [quiet], "threaded": [shaken]}) == []


@pytest.mark.parametrize(("total", "arguments", "status"), [(8.6, ["--check"], 1), (8.6, [], 0), (8.4, ["--check"], 0)])
def test_check_decides_the_exit_status(monkeypatch, capsys, total, arguments, status):
    monkeypatch.setattr(sys, "argv", ["compare", "--only", "json", "--seed", "7", *arguments])
    monkeypatch.setattr(measure, "end_on_term", lambda: None)
    monkeypatch.setattr(compare, "compare", lambda *_: (by_key(floor_json=[5.0], json=[total]), {}))
    assert compare.main() == status
    printed = capsys.readouterr().out
    assert ("more than 1.7" in printed) == (total > 8.5)
    assert "--seed 7" in printed


def test_over_tls_a_peer_is_the_base_and_another_s_cost_the_aim():
    rows = choose(["tls"])
    assert [row.key for row in rows] == ["tls-uvicorn", "tls-granian", "tls"]
    measured = by_key(tls_uvicorn=[800.0, 600.0], tls_granian=[400.0, 600.0], tls=[880.0, 690.0])
    assert compare.aim_of(BY_KEY["tls"], rows, measured) == pytest.approx(0.75)
    assert compare.aim_of(BY_KEY["json"], rows, measured) == BY_KEY["json"].aim
    row = compare.table(rows, measured).splitlines()[-1]
    assert re.search(r" 1\.12 +1\.00 +0\.75 .* 1\.10 1\.15$", row)
    assert compare.excesses(rows, measured) == ["tls costs 1.12 times tls-uvicorn: more than 1.0"]
    del measured["tls-granian"]
    assert compare.aim_of(BY_KEY["tls"], rows, measured) is None


@pytest.mark.parametrize(
    ("missing", "unmeasured", "total", "arguments", "status"),
    [
        ([], [], 8.0, ["--check"], 0),
        (["granian"], ["tls-granian"], 8.0, ["--check"], 0),
        (["uvicorn"], ["tls-uvicorn", "tls-granian", "tls"], 8.0, ["--check"], 2),
        (["uvicorn"], ["tls-uvicorn", "tls-granian", "tls"], 9.0, ["--check"], 1),
        (["httptools", "uvicorn"], ["tls-uvicorn", "tls-granian", "tls"], 8.0, [], 0),
    ],
)
def test_a_row_whose_peer_can_not_be_installed_is_told_and_has_not_passed(
    monkeypatch, capsys, missing, unmeasured, total, arguments, status
):
    costs = by_key(floor_json=[5.0], json=[total], tls_uvicorn=[700.0], tls_granian=[600.0], tls=[650.0])
    monkeypatch.setattr(sys, "argv", ["compare", "--only", "json", "--only", "tls", "--seed", "7", *arguments])
    monkeypatch.setattr(measure, "end_on_term", lambda: None)
    monkeypatch.setattr(compare, "install", lambda python, packages: [name for name in packages if name in missing])
    monkeypatch.setattr(compare, "compare", lambda rows, *_: ({row.key: costs[row.key] for row in rows}, {}))
    assert compare.main() == status
    printed = capsys.readouterr().out
    told = [line.split()[0] for line in printed.splitlines() if "can't be installed here" in line]
    assert told == unmeasured
    assert printed.count("more than 1.7") == (total == 9.0)


ASGI_COSTS = {
    "floor_json": [5.0],
    **{f"json_{name}": [20.0] for name in ("granian", "h2corn", "hypercorn", "gunicorn", "peregrine")},
}


@pytest.mark.parametrize(
    ("uvicorn", "own", "said"),
    [
        (15.0, 12.0, []),
        (15.0, 13.5, ["asgi costs 2.70 times floor-json: more than 2.6"]),
        (25.0, 14.5, []),  # 0.6 times 5
        (25.0, 15.5, ["asgi costs 3.10 times floor-json: more than 3.0"]),
        (12.0, 12.0, ["asgi costs 2.40 times floor-json: not less than json-uvicorn with 2.40"]),
    ],
)
def test_a_row_may_cost_a_part_of_a_peer_s_and_less_than_others(uvicorn, own, said):
    rows = choose(["asgi"])
    assert compare.excesses(rows, by_key(**ASGI_COSTS, json_uvicorn=[uvicorn], asgi=[own])) == said
    line = compare.table(rows, by_key(**ASGI_COSTS, json_uvicorn=[uvicorn], asgi=[own])).splitlines()[-1]
    assert f" {max(2.6, uvicorn * 0.6 / 5):.2f}  4.00 " in line  # the aim is peregrine's


@pytest.mark.parametrize(("lacking", "status"), [((), 0), (("json-h2corn",), 2), (("json-peregrine",), 0)])
def test_a_peer_that_fails_is_told_and_what_must_be_ahead_of_it_has_not_passed(monkeypatch, capsys, lacking, status):
    def run(group: list[Contestant], *_: object) -> dict[str, Cost | BenchmarkError]:
        totals = {one.key: {"floor-json": 5.0, "asgi": 12.0}.get(one.key, 20.0) for one in group}
        costs = {key: Cost(1e5, total, 1.0, 1.0, 1.0, 0.0) for key, total in totals.items()}
        return costs | {key: BenchmarkError("it has\nfailed") for key in lacking}

    monkeypatch.setattr(sys, "argv", ["compare", "--only", "asgi", "--runs", "2", "--seed", "7", "--check"])
    monkeypatch.setattr(measure, "end_on_term", lambda: None)
    monkeypatch.setattr(compare, "install", lambda python, packages: [])
    monkeypatch.setattr(compare, "run", run)
    assert compare.main() == status
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.endswith("not measured: failed")] == [*lacking]


def test_a_row_that_fails_ends_the_measurement(monkeypatch, capsys):
    def run(group: list[Contestant], *_: object) -> dict[str, BenchmarkError]:
        return {contestant.key: BenchmarkError("it has failed") for contestant in group}

    monkeypatch.setattr(sys, "argv", ["compare", "--only", "json"])
    monkeypatch.setattr(measure, "end_on_term", lambda: None)
    monkeypatch.setattr(compare, "run", run)
    assert compare.main() == 2
    assert "floor-json: it has failed" in capsys.readouterr().err


@pytest.mark.parametrize("app", ["asgi:app", "with_fastapi:app"])
def test_applications_of_the_asgi_rows_answer_as_the_floor(app):
    served = Contestant("served", "served", hypoll(f"benchmarks.{app}"), "/json")
    with measure.running(served, sys.executable) as (_, port):
        assert receive(port).endswith(b'\r\n\r\n{"message":"Hello, World!"}')


def test_every_contestant_has_a_key_of_its_own():
    assert len(BY_KEY) == len(CONTESTANTS)
    assert set().union(*(row.related for row in CONTESTANTS)) <= {*BY_KEY}
    assert {row.key for row in choose([])} >= {"unique", "floor-unique", "observed", "nginx", "file"}
    of_asgi = {row.key for row in choose([], "asgi")}
    own = {"asgi", "asgi-asyncio", "asgi-unique", "fastapi", "floor-json", "floor-unique"}
    assert of_asgi > own
    peers = {"uvicorn", "granian", "h2corn", "hypercorn", "gunicorn", "peregrine"}
    assert of_asgi - own == {f"{traffic}-{name}" for traffic in ("json", "unique") for name in peers} | {
        "fastapi-uvicorn",
        "fastapi-granian",
    }
    with pytest.raises(KeyError):
        choose(["nobody"])


@pytest.mark.full
@pytest.mark.parametrize("key", sorted({row.key for table in ("", "asgi", "websocket") for row in choose([], table)}))
def test_each_row_is_answered(key, floor, sockets, monkeypatch):
    """With the traffic it is measured by: wrk tells of what isn't 2xx, the client of WebSockets of other echoes."""
    row = BY_KEY[key]
    if missing := {*row.packages} - installed():
        pytest.skip(f"`scripts/bench` installs the peers: {', '.join(sorted(missing))}")
    command = tuple(str(floor) if word == str(FLOOR) else word for word in row.command)
    monkeypatch.setattr(measure, "FLOOR", floor)
    monkeypatch.setattr(measure, "SOCKETS", sockets)
    with measure.running(dataclasses.replace(row, command=command), sys.executable) as (_, port):
        assert measure.load(row, port, min(os.sched_getaffinity(0)), 1, 8, seed=5).requests > 0


def test_what_strace_counts_is_read():
    summary = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 50.80    0.412601          16     25031           sendto
 43.51    0.353410          14     25095        64 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.812206          15     50126        64 total
"""
    assert syscalls.parse_strace(summary) == {"sendto": 25031, "recvfrom": 25095}


def test_smaps_are_read():
    text = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:    1000 kB\nPss:     900 kB\nPss_Anon:  800 kB\n"
    assert idle.parse_smaps(text) == idle.Memory(1000 * 1024, 900 * 1024)


def test_an_idle_connection_costs_less_than_3_kib_and_is_answered():
    # Asks once more on each of them in random order, and raises when one isn't answered.
    measured = idle.measure_idle(2000, sys.executable)
    assert 0 < measured.pss < idle.LIMIT
    assert measured.median < 0.05
