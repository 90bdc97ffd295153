"""What a request makes of a file: rows of request fields, and the answer's status, fields and content."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hypoll.protocol import files
from hypoll.protocol.conditional import CONDITIONS
from hypoll.protocol.fields import pairs
from hypoll.protocol.files import FILES, File, OpenFiles, guess_type
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.protocol.slices import Slice
from tests.support.leftovers import open_descriptors, settled_descriptors

MODIFIED = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"
CONTENT = b"0123456789"
ETAG = f'"{MODIFIED * 10**9:x}-a"'
WEAK = f"W/{ETAG}"


@pytest.fixture(autouse=True)
def forgotten():
    FILES.clear()
    FILES.limit = files.OPEN_FILES
    yield
    FILES.clear()


def write(path: Path, content: bytes, modified: float = MODIFIED) -> Path:
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "digits.txt", CONTENT)


def request(method: str = "GET", *fields: tuple[str, str], **named: str) -> Request:
    every = (*fields, *((name.replace("_", "-"), value) for name, value in named.items()))
    return Request(method, b"/", HeaderSection(every), plain=method != "HEAD")


def answer(file: File, asked: Request, response: Response | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, fields by lower-case name, and content of the answer."""
    sent = file.respond(asked, response or Response(file))
    fields = {name.lower(): value for name, value in pairs(sent.headers)}
    if sent.content_type is not None:
        fields["content-type"] = sent.content_type
    body = sent.body
    assert isinstance(body, (Slice, bytes))
    content = body if isinstance(body, bytes) else b"".join(body)
    return sent.status, fields, content


ANSWERS = {
    # nothing asked
    "no fields": ("GET", {}, 200, CONTENT),
    "HEAD": ("HEAD", {}, 200, CONTENT),  # whose content the encoder leaves out
    # If-Match (13.1.1)
    "if-match the tag": ("GET", {"if-match": ETAG}, 200, CONTENT),
    "if-match in a list": ("GET", {"if-match": f'"x", {ETAG}'}, 200, CONTENT),
    "if-match any": ("GET", {"if-match": "*"}, 200, CONTENT),
    "if-match another": ("GET", {"if-match": '"x"'}, 412, None),
    "if-match weak is no strong match": ("GET", {"if-match": WEAK}, 412, None),
    "if-match malformed": ("GET", {"if-match": ETAG[:-1]}, 412, None),
    "if-match a tag with a comma": ("GET", {"if-match": f'"a,b",{ETAG}'}, 200, CONTENT),
    "if-match HEAD": ("HEAD", {"if-match": '"x"'}, 412, None),
    # If-Unmodified-Since (13.1.4)
    "if-unmodified-since then": ("GET", {"if-unmodified-since": DATE}, 200, CONTENT),
    "if-unmodified-since after": ("GET", {"if-unmodified-since": AFTER}, 200, CONTENT),
    "if-unmodified-since before": ("GET", {"if-unmodified-since": BEFORE}, 412, None),
    "if-unmodified-since no date": ("GET", {"if-unmodified-since": "yesterday"}, 200, CONTENT),
    # If-None-Match (13.1.2)
    "if-none-match the tag": ("GET", {"if-none-match": ETAG}, 304, b""),
    "if-none-match weakly": ("GET", {"if-none-match": WEAK}, 304, b""),
    "if-none-match in a list": ("GET", {"if-none-match": f'"x" ,, {ETAG},'}, 304, b""),
    "if-none-match any": ("GET", {"if-none-match": "*"}, 304, b""),
    "if-none-match another": ("GET", {"if-none-match": '"x"'}, 200, CONTENT),
    "if-none-match malformed": ("GET", {"if-none-match": f"x{ETAG}"}, 200, CONTENT),
    "if-none-match HEAD": ("HEAD", {"if-none-match": ETAG}, 304, b""),
    # If-Modified-Since (13.1.3)
    "if-modified-since then": ("GET", {"if-modified-since": DATE}, 304, b""),
    "if-modified-since after": ("GET", {"if-modified-since": AFTER}, 304, b""),
    "if-modified-since before": ("GET", {"if-modified-since": BEFORE}, 200, CONTENT),
    "if-modified-since no date": ("GET", {"if-modified-since": "yesterday"}, 200, CONTENT),
    "if-modified-since twice": ("GET", {"if-modified-since": f"{DATE}, {DATE}"}, 200, CONTENT),
    "if-modified-since RFC 850": ("GET", {"if-modified-since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304, b""),
    "if-modified-since asctime": ("GET", {"if-modified-since": "Sun Nov  6 08:49:37 1994"}, 304, b""),
    # the order of evaluation (13.2.2)
    "1 before 2": ("GET", {"if-match": ETAG, "if-unmodified-since": BEFORE}, 200, CONTENT),
    "1 before 3": ("GET", {"if-match": '"x"', "if-none-match": ETAG}, 412, None),
    "1 then 3": ("GET", {"if-match": ETAG, "if-none-match": ETAG}, 304, b""),
    "2 before 3": ("GET", {"if-unmodified-since": BEFORE, "if-none-match": ETAG}, 412, None),
    "2 then 4": ("GET", {"if-unmodified-since": AFTER, "if-modified-since": AFTER}, 304, b""),
    "3 before 4": ("GET", {"if-none-match": '"x"', "if-modified-since": AFTER}, 200, CONTENT),
    "3 before 5": ("GET", {"if-none-match": ETAG, "range": "bytes=0-1"}, 304, b""),
    "1 before 5": ("GET", {"if-match": '"x"', "range": "bytes=0-1"}, 412, None),
    "3 before 416": ("GET", {"if-none-match": ETAG, "range": "bytes=99-"}, 304, b""),
    "1 and 5": ("GET", {"if-match": ETAG, "range": "bytes=0-1"}, 206, b"01"),
    # Range (14.2)
    "range": ("GET", {"range": "bytes=2-4"}, 206, b"234"),
    "range of one byte": ("GET", {"range": "bytes=0-0"}, 206, b"0"),
    "range to the end": ("GET", {"range": "bytes=7-"}, 206, b"789"),
    "range beyond the end": ("GET", {"range": "bytes=7-99"}, 206, b"789"),
    "range of all": ("GET", {"range": "bytes=0-9"}, 206, CONTENT),
    "suffix": ("GET", {"range": "bytes=-3"}, 206, b"789"),
    "suffix longer than all": ("GET", {"range": "bytes=-99"}, 206, CONTENT),
    "range, unit in capitals": ("GET", {"range": "Bytes=2-4"}, 206, b"234"),
    "range among empty members": ("GET", {"range": "bytes= ,2-4, "}, 206, b"234"),
    "range of a huge number": ("GET", {"range": f"bytes=0-{'9' * 5000}"}, 206, CONTENT),
    "range of many zeros": ("GET", {"range": f"bytes={'0' * 5000}2-4"}, 206, b"234"),
    "range at the end": ("GET", {"range": "bytes=10-"}, 416, None),
    "range from a huge number": ("GET", {"range": f"bytes={'9' * 5000}-"}, 416, None),
    "suffix of nothing": ("GET", {"range": "bytes=-0"}, 416, None),
    "range backwards": ("GET", {"range": "bytes=4-2"}, 200, CONTENT),
    "range of nothing": ("GET", {"range": "bytes=-"}, 200, CONTENT),
    "range malformed": ("GET", {"range": "bytes=a-b"}, 200, CONTENT),
    "range negative": ("GET", {"range": "bytes=--3"}, 200, CONTENT),
    "range of Arabic digits": ("GET", {"range": "bytes=\u0661-\u0662"}, 200, CONTENT),
    "another unit": ("GET", {"range": "lines=2-4"}, 200, CONTENT),
    "several ranges": ("GET", {"range": "bytes=0-1,4-5"}, 200, CONTENT),
    "HEAD has no range": ("HEAD", {"range": "bytes=2-4"}, 200, CONTENT),
    "HEAD of an unsatisfiable range": ("HEAD", {"range": "bytes=99-"}, 200, CONTENT),
    # If-Range (13.1.5)
    "if-range the tag": ("GET", {"if-range": ETAG, "range": "bytes=2-4"}, 206, b"234"),
    "if-range another": ("GET", {"if-range": '"x"', "range": "bytes=2-4"}, 200, CONTENT),
    "if-range weak": ("GET", {"if-range": WEAK, "range": "bytes=2-4"}, 200, CONTENT),
    "if-range then": ("GET", {"if-range": DATE, "range": "bytes=2-4"}, 206, b"234"),
    "if-range after is not exact": ("GET", {"if-range": AFTER, "range": "bytes=2-4"}, 200, CONTENT),
    "if-range before": ("GET", {"if-range": BEFORE, "range": "bytes=2-4"}, 200, CONTENT),
    "if-range is no list": ("GET", {"if-range": f"{ETAG}, {ETAG}", "range": "bytes=2-4"}, 200, CONTENT),
    "if-range is never any": ("GET", {"if-range": "*", "range": "bytes=2-4"}, 200, CONTENT),
    "if-range fails before 416": ("GET", {"if-range": '"x"', "range": "bytes=99-"}, 200, CONTENT),
    "if-range holds, 416": ("GET", {"if-range": ETAG, "range": "bytes=99-"}, 416, None),
    "if-range alone": ("GET", {"if-range": ETAG}, 200, CONTENT),
}


@pytest.mark.parametrize(("method", "fields", "status", "content"), ANSWERS.values(), ids=ANSWERS)
def test_a_request_is_answered_as_it_asks(path, method, fields, status, content):
    given, sent, body = answer(File(path), request(method, *fields.items()))
    assert given == status
    if content is None:
        assert sent["content-type"] == "application/problem+json"
        assert not {"etag", "last-modified", "accept-ranges"} & sent.keys()
    else:
        assert body == content
        assert sent["etag"] == ETAG
        assert sent["last-modified"] == DATE
    if status in (200, 206):
        assert sent["content-type"] == "text/plain; charset=utf-8"
        assert sent["accept-ranges"] == "bytes"
    if status == 304:
        assert sent.keys() == {"etag", "last-modified"}
    assert ("content-range" in sent) == (status in (206, 416))


RANGES = [
    ("bytes=2-4", 10, "bytes 2-4/10"),
    ("bytes=7-", 10, "bytes 7-9/10"),
    ("bytes=-3", 10, "bytes 7-9/10"),
    ("bytes=-99", 10, "bytes 0-9/10"),
    ("bytes=10-", 10, "bytes */10"),
    ("bytes=0-", 0, "bytes */0"),
    ("bytes=-5", 0, None),
]


@pytest.mark.parametrize(("field", "size", "told"), RANGES)
def test_the_part_that_is_sent_is_told(tmp_path, field, size, told):
    path = write(tmp_path / "x", b"x" * size)
    _, fields, _ = answer(File(path), request(range=field))
    assert fields.get("content-range") == told


def test_a_repeated_field_is_one_list(path):
    asked = request("GET", ("if-none-match", '"x"'), ("if-none-match", ETAG))
    assert answer(File(path), asked)[0] == 304


HANDLERS = {
    "its own tag": (Response(headers={"ETag": '"mine"'}), {"if-none-match": '"mine"'}, 304, {"etag": '"mine"'}),
    "not the file's then": (Response(headers={"ETag": '"mine"'}), {"if-none-match": ETAG}, 200, {"etag": '"mine"'}),
    "its own weak tag": (Response(headers={"etag": 'W/"m"'}), {"if-range": 'W/"m"', "range": "bytes=1-"}, 200, {}),
    "its own date": (
        Response(headers={"Last-Modified": AFTER}),
        {"if-modified-since": DATE},
        200,
        {"last-modified": AFTER},
    ),
    "its own date is no date": (Response(headers={"Last-Modified": "x"}), {"if-modified-since": AFTER}, 200, {}),
    "its type": (Response(content_type="a/b"), {}, 200, {"content-type": "a/b"}),
    "its fields": (Response(headers=[("X", "1")]), {"range": "bytes=1-"}, 206, {"x": "1"}),
    "its fields at 304": (Response(headers={"Vary": "A"}), {"if-none-match": "*"}, 304, {"vary": "A"}),
    "its fields at 412": (Response(headers={"Vary": "A"}), {"if-match": '"x"'}, 412, {"vary": "A"}),
    "its fields at 416": (Response(headers={"Vary": "A"}), {"range": "bytes=99-"}, 416, {"vary": "A"}),
    "no length of its own": (Response(headers={"Content-Length": "7"}), {}, 200, {"content-length": None}),
    "no coding at 416": (
        Response(headers={"Content-Encoding": "gzip"}),
        {"range": "bytes=99-"},
        416,
        {"content-encoding": None},
    ),
    "no coding at 304": (
        Response(headers={"Content-Encoding": "gzip"}),
        {"if-match": "*", "if-none-match": "*"},
        304,
        {"content-encoding": None},
    ),
    "another status": (Response(status=404), {"if-none-match": "*", "range": "bytes=1-"}, 404, {"etag": None}),
}


@pytest.mark.parametrize(("response", "fields", "status", "expected"), HANDLERS.values(), ids=HANDLERS)
def test_the_handlers_response_is_kept(path, response, fields, status, expected):
    given, sent, body = answer(File(path), request("GET", *fields.items()), response)
    assert given == status
    assert {name: sent.get(name) for name in expected} == expected
    if status == 404:
        assert body == CONTENT


def test_only_get_and_head_have_conditions(path):
    assert answer(File(path), request("POST", if_match='"x"', range="bytes=1-"))[::2] == (200, CONTENT)


@pytest.mark.parametrize("headers", [{"X": "a\r\nb"}, {"a b": "c"}, {"X": 1}])
def test_a_field_that_cant_be_sent_is_an_error(path, headers):
    with pytest.raises((ValueError, TypeError), match=r"X|a b"):
        File(path).respond(request(), Response(headers=headers))


def test_a_type_that_cant_be_sent_is_an_error_and_nothing_stays_open(path):
    before = len(settled_descriptors())
    with pytest.raises(ValueError, match="Content-Type"):
        File(path, "text/plain\r\nX: y").respond(request(), Response())
    assert len(open_descriptors()) == before


# where no file is


def test_what_is_no_file_is_not_found(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    before = len(settled_descriptors())
    for name in ("missing", ".", "fifo", "loop", "digits.txt/x", "x" * 300, "a\0b", "a\udfffb"):
        status, fields, _ = answer(File(f"{tmp_path}/{name}"), request())
        assert (status, fields["content-type"]) == (404, "application/problem+json")
    assert answer(File("/dev/null"), request())[0] == 404
    assert len(open_descriptors()) == before


def test_a_file_exchanged_for_a_fifo_before_it_is_opened_is_not_found(tmp_path, path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    status, opened = os.stat(path), os.open
    monkeypatch.setattr(os, "stat", lambda *args, **options: status)
    monkeypatch.setattr(os, "open", lambda name, *args, **options: opened(tmp_path / "fifo", *args, **options))
    before = len(settled_descriptors())
    assert answer(File(path), request())[0] == 404
    assert len(open_descriptors()) == before


@pytest.mark.parametrize(("code", "status"), [(errno.EACCES, 403), (errno.ENXIO, 404)])
def test_what_may_not_be_opened_is_told(path, monkeypatch, code, status):
    fail_open(monkeypatch, code, times=1)
    assert answer(File(path), request(), Response(headers={"X": "1"}))[:2:] == (
        status,
        {"content-type": "application/problem+json", "x": "1"},
    )


def test_the_servers_own_trouble_is_raised(path, monkeypatch):
    fail_open(monkeypatch, errno.EIO, times=1)
    with pytest.raises(OSError, match="Input/output"):
        File(path).respond(request(), Response())


def fail_open(monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> None:
    opened = os.open
    left = [None] * times

    def open_or_fail(*args, **options):
        if left:
            left.pop()
            raise OSError(code, os.strerror(code))
        return opened(*args, **options)

    monkeypatch.setattr(os, "open", open_or_fail)


def test_out_of_descriptors_those_kept_are_given_up(tmp_path, path, monkeypatch):
    answer(File(write(tmp_path / "other", b"x")), request())
    assert len(FILES) == 1
    fail_open(monkeypatch, errno.EMFILE, times=1)
    assert answer(File(path), request())[0] == 200
    assert len(FILES) == 1


@pytest.mark.parametrize("value", [b"bytes", 7, None])
def test_a_path_is_text(value):
    with pytest.raises(TypeError):
        File(value)


# files kept open


def test_a_file_is_opened_once_and_looked_at_each_time(path, monkeypatch):
    assert answer(File(path), request())[2] == CONTENT
    monkeypatch.delattr(os, "open")
    assert answer(File(path), request())[2] == CONTENT
    assert File(path).whole(request()) is File(str(path)).whole(request())


CHANGES = {
    "replaced": lambda path: os.replace(write(path.with_name("new"), b"abcdefghij"), path),
    "rewritten": lambda path: path.write_bytes(b"abcdefghij"),
    "rewritten, its date set back": lambda path: write(path, b"abcdefghij"),
    "removed and made anew": lambda path: (path.unlink(), path.write_bytes(b"abcdefghij")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_noticed(path, change):
    body = File(path).respond(request(), Response()).body
    change(path)
    status = path.stat()
    _, fields, content = answer(File(path), request())
    assert content == b"abcdefghij"
    assert fields["etag"] == f'"{status.st_mtime_ns:x}-a"'
    assert isinstance(body, Slice)
    body.release()


def test_a_removed_file_is_noticed(path):
    answer(File(path), request())
    path.unlink()
    assert answer(File(path), request())[0] == 404
    assert len(FILES) == 0


def test_a_replaced_file_is_sent_to_the_end_and_closed_after(path):
    before = len(settled_descriptors())
    body = File(path).respond(request(), Response()).body
    assert isinstance(body, Slice)
    assert body.read(3) == b"012"
    os.replace(write(path.with_name("new"), b"another"), path)
    assert answer(File(path), request())[2] == b"another"
    assert b"".join(body) == b"3456789"
    body.release()
    body.release()
    assert body.fd == -1
    FILES.clear()
    assert len(open_descriptors()) == before


def test_as_many_files_are_kept_open_as_the_limit_says(tmp_path):
    kept = OpenFiles(8)
    before = len(settled_descriptors())
    for number in range(50):
        path = write(tmp_path / str(number), b"x")
        kept.put(number, File(path)._open())
        assert len(kept) <= 8
        assert len(open_descriptors()) - before <= 8
    assert kept.get(49) is not None
    assert kept.get(0) is None
    kept.clear()
    assert len(open_descriptors()) == before


def test_nothing_is_kept_where_there_is_no_room(path):
    kept = OpenFiles(1)
    kept.put("key", File(path)._open())
    assert len(kept) == 0


def test_a_file_that_nobody_asks_for_is_let_go(tmp_path):
    kept = OpenFiles()
    for name in ("asked", "idle"):
        kept.put(name, File(write(tmp_path / name, b"x"))._open())
    kept.tick(1000.0)
    kept.tick(1000.0 + files.IDLE_TIME / 2)
    assert kept.get("asked") is not None
    assert len(kept) == 2
    kept.tick(1000.0 + files.IDLE_TIME)
    assert kept.get("idle") is None
    assert kept.get("asked") is not None


# the hot path


@pytest.mark.parametrize(
    ("asked", "whole"),
    [
        (request(), True),
        (request("GET", ("accept", "*/*")), True),
        (request("POST"), False),
        (request("HEAD"), False),
        *((request("GET", (name, "x")), False) for name in sorted(CONDITIONS)),
    ],
)
def test_the_whole_file_is_the_answer_to_those_who_ask_for_nothing_else(path, asked, whole):
    file = File(path).whole(asked)
    assert (file is not None) == whole
    if file is not None:
        lines = file.lines.decode().split("\r\n")
        assert sorted(lines) == sorted(
            [
                "Content-Type: text/plain; charset=utf-8",
                f"ETag: {ETAG}",
                f"Last-Modified: {DATE}",
                "Accept-Ranges: bytes",
                "Content-Length: 10",
                "",
            ]
        )


def test_a_missing_file_is_not_the_whole_answer():
    assert File("/nowhere").whole(request()) is None


def test_a_date_in_the_future_is_not_told(tmp_path):
    path = write(tmp_path / "x", b"", 4e9)
    assert "last-modified" not in answer(File(path), request())[1]


# the parts


TYPES = {
    "a.txt": "text/plain; charset=utf-8",
    "a.css": "text/css; charset=utf-8",
    "a.png": "image/png",
    "a.json": "application/json",
    "a.tar.gz": "application/gzip",
    "a.svgz": "application/gzip",
    "a.txt.bz2": "application/x-bzip2",
    "a": "application/octet-stream",
    "data:text,a.png": "image/png",
    "data:text": "application/octet-stream",
    "x:a?b#c.png": "image/png",
    "dir.css/a": "application/octet-stream",
    "a.unheard-of": "application/octet-stream",
}


@pytest.mark.parametrize(("name", "kind"), TYPES.items())
def test_the_type_is_guessed_by_the_name(name, kind):
    assert guess_type(name) == kind


def test_what_is_no_response_of_ours_raises_in_open():
    with pytest.raises(HTTPError):
        File("/nowhere").open()


def test_the_end_of_the_interpreter_says_nothing(tmp_path):
    """Files and spools that are still open then close by themselves, after the modules that they need are gone."""
    (tmp_path / "file").write_bytes(b"x")
    code = f"""
import builtins, os
from wsgiref.util import FileWrapper
from hypoll.protocol.files import File
from hypoll.loop import Loop
from hypoll.settings import Settings
from hypoll.server.spool import Spool, SpoolSpace
from hypoll.wsgi.response import FilePart
spool = Spool(SpoolSpace(Loop(), Settings(spool_memory=0)))
spool.put(bytes(100000))
path = {str(tmp_path / "file")!r}
class Last:
    kept = [File(path).open(), FilePart(os.open(path, 0), 0, 1, None), spool]
builtins.last = Last.kept  # these go when nearly everything else has gone
Last.kept.append(Last.kept)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
