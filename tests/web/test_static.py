"""Files below a directory: what a path leads to, and what no path leads to."""

from __future__ import annotations

import os
import socket

import pytest

from hypoll.protocol.files import FILES, OPEN_FILES
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import HTTPError, Request
from hypoll.protocol.open_file import OpenFile
from hypoll.web.routing import RouteError
from hypoll.web.static import Static, open_beneath
from tests.support.leftovers import open_descriptors, settled_descriptors


@pytest.fixture(autouse=True)
def forgotten():
    FILES.clear()
    FILES.limit = OPEN_FILES
    yield
    FILES.clear()


@pytest.fixture
def root(tmp_path):
    """A directory with something to serve, beside something that is nobody's business."""
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_bytes(b"secret")
    (tmp_path / "rooted").mkdir()  # its name begins as the directory's
    (tmp_path / "rooted" / "secret.txt").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "ed").mkdir(parents=True)
    (root / "ed" / "secret.txt").write_bytes(b"not this one either")
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"a")
    (root / "sub" / "b.txt").write_bytes(b"b")
    (root / "sub" / "deep" / "c.txt").write_bytes(b"c")
    (root / "empty").write_bytes(b"")
    (root / "with space & ümlaut").write_bytes(b"odd")
    (root / "back\\slash").write_bytes(b"back")
    (root / "a..b").write_bytes(b"dots")
    (root / ".env").write_bytes(b"secret")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(b"secret")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(root / "socket"))
    for name, target in {
        "in": "a.txt",
        "in-deep": "sub/deep/c.txt",
        "in-up": "sub/deep/../../a.txt",
        "in-absolute": root / "a.txt",
        "in-dir": "sub",
        "in-dir-absolute": root / "sub",
        "in-twice": "in-dir/up",
        "sub/up": "../a.txt",
        "in-generation": "..2026/file.txt",
        "out": "../secret.txt",
        "out-absolute": tmp_path / "secret.txt",
        "out-similar": tmp_path / "rooted" / "secret.txt",
        "out-absolute-up": f"{root}/../secret.txt",
        "out-and-in": "../root/a.txt",
        "out-dir": "../outside",
        "out-dir-absolute": tmp_path / "outside",
        "out-root": "/",
        "out-twice": "sub/out",
        "sub/out": "../../secret.txt",
        "broken": "nothing",
        "self": "self",
        "here": ".",
        "to-dir": "sub/",
        "to-file-as-dir": "a.txt/",
    }.items():
        (root / name).symlink_to(target)
    (root / "..2026").mkdir()
    (root / "..2026" / "file.txt").write_bytes(b"mounted")
    return root


def request(accept_encoding: str | None = None) -> Request:
    fields = () if accept_encoding is None else (("accept-encoding", accept_encoding),)
    return Request("GET", b"/", HeaderSection(fields), plain=True)


def served(static: Static, path: str, accept_encoding: str | None = None) -> tuple[bytes, dict[str, str]]:
    """Content and fields of the file."""
    file = opened(static, path, accept_encoding)
    lines = file.lines.decode("latin-1").split("\r\n")[:-1]
    return os.pread(file.fd, 1000, 0), dict(line.split(": ", 1) for line in lines)


def opened(static: Static, path: str, accept_encoding: str | None = None) -> OpenFile:
    body = static(request(accept_encoding), path).body
    assert isinstance(body, OpenFile)
    return body


FOUND = {
    "a.txt": b"a",
    "sub/b.txt": b"b",
    "sub/deep/c.txt": b"c",
    "empty": b"",
    "with space & ümlaut": b"odd",
    "back\\slash": b"back",
    "a..b": b"dots",
    "in": b"a",
    "in-deep": b"c",
    "in-up": b"a",
    "in-absolute": b"a",
    "in-dir/b.txt": b"b",
    "in-dir/deep/c.txt": b"c",
    "in-dir-absolute/b.txt": b"b",
    "in-twice": b"a",
    "sub/up": b"a",
    "in-generation": b"mounted",
    "here/here/a.txt": b"a",
}


@pytest.mark.parametrize(("path", "content"), FOUND.items())
def test_files_below_the_directory_are_served(root, path, content):
    static = Static(root)
    before = len(settled_descriptors())
    for _ in range(2):  # the second time from those kept open
        assert served(static, path)[0] == content
    assert len(open_descriptors()) == before + 1


HOSTILE = [
    "",
    ".",
    "..",
    "/",
    "//",
    "/a.txt",
    "//a.txt",
    "a.txt/",
    "a.txt/.",
    "a.txt/x",
    "./a.txt",
    "sub",
    "sub/",
    "sub//b.txt",
    "sub/./b.txt",
    "sub/../a.txt",
    "../secret.txt",
    "../root/a.txt",
    "sub/../../secret.txt",
    "/etc/passwd",
    "/../../../../../../etc/passwd",
    "..\\secret.txt",
    ".env",
    ".git/config",
    "..2026/file.txt",
    "sub/.hidden",
    "fifo",
    "socket",
    "missing",
    "missing/x",
    "a.txt\0",
    "\0",
    "a\0.txt",
    "../secret.txt\0.txt",
    "x" * 300,
    "/".join(["sub"] * 3000),
    "a\udcff",
    "a\udfffb",
    "out",
    "out-absolute",
    "out-similar",
    "out-absolute-up",
    "out-and-in",
    "out-dir/secret.txt",
    "out-dir-absolute/secret.txt",
    "out-root/etc/passwd",
    "out-twice",
    "sub/out",
    "broken",
    "self",
    "self/x",
    "here/" * 41 + "a.txt",
    "to-dir",
    "to-file-as-dir",
    "in-dir",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_else_is_found(root, path):
    static = Static(root)
    before = len(settled_descriptors())
    with pytest.raises(HTTPError) as refused:
        static(request("gzip, br"), path)
    assert refused.value.status == 404
    assert refused.value.detail == "there is no file at this path"
    assert len(open_descriptors()) == before


def test_a_device_is_not_found(tmp_path):
    with pytest.raises(HTTPError, match="404"):
        Static("/dev")(request(), "null")


def test_what_may_not_be_read_is_forbidden(root, monkeypatch):
    static = Static(root)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HTTPError, match="403"):
        static(request(), "a.txt")


def test_a_directory_exchanged_for_a_link_under_way_does_not_lead_out(root, monkeypatch):
    real_open = os.open

    def exchange_then_open(path, flags, *args, **options):
        if path == "sub" and not (root / "moved").exists():
            (root / "sub").rename(root / "moved")
            (root / "sub").symlink_to("../outside")
        return real_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", exchange_then_open)
    before = len(settled_descriptors())
    with pytest.raises(HTTPError, match="404"):
        open_beneath(str(root), ["sub", "secret.txt"])
    assert (root / "moved").exists()
    assert len(open_descriptors()) == before


def test_a_file_exchanged_for_a_link_under_way_does_not_lead_out(root, monkeypatch):
    real_open = os.open

    def exchange_then_open(path, flags, *args, **options):
        if path == "a.txt":
            (root / "a.txt").unlink()
            (root / "a.txt").symlink_to("../secret.txt")
        return real_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", exchange_then_open)
    with pytest.raises(HTTPError, match="404"):
        open_beneath(str(root), ["a.txt"])
    assert (root / "a.txt").is_symlink()


def test_a_kept_file_exchanged_for_a_link_that_leads_out_is_not_found(root):
    static = Static(root)
    assert served(static, "a.txt")[0] == b"a"
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to("../secret.txt")
    with pytest.raises(HTTPError, match="404"):
        static(request(), "a.txt")


def test_a_directory_that_is_a_link_may_be_pointed_elsewhere(root):
    current = root.parent / "current"
    current.symlink_to("root")
    static = Static(current)
    assert served(static, "a.txt")[0] == b"a"
    assert served(static, "in-absolute")[0] == b"a"  # an absolute link by the directory's real name
    (root.parent / "outside" / "a.txt").write_bytes(b"new")
    current.unlink()
    current.symlink_to("outside")
    assert served(static, "a.txt")[0] == b"new"
    current.unlink()
    with pytest.raises(HTTPError, match="404"):
        static(request(), "a.txt")


def test_the_directory_is_where_it_was_when_the_process_changes_its_own(root, monkeypatch):
    monkeypatch.chdir(root)
    static = Static(".")
    monkeypatch.chdir("/")
    assert served(static, "a.txt")[0] == b"a"


def test_two_directories_are_not_confused(root):
    outer, inner = Static(root), Static(root / "sub")
    (root / "b.txt").write_bytes(b"outer")
    assert served(outer, "b.txt")[0] == b"outer"
    assert served(inner, "b.txt")[0] == b"b"
    assert "Cache-Control" not in served(outer, "b.txt")[1]
    assert served(Static(root, cache_control="no-store"), "b.txt")[1]["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, {"Vary": "Accept-Encoding"}),
        ({"precompressed": False}, {}),
        ({"cache_control": "public, max-age=60"}, {"Cache-Control": "public, max-age=60", "Vary": "Accept-Encoding"}),
        ({"cache_control": "no-cache", "precompressed": False}, {"Cache-Control": "no-cache"}),
    ],
)
def test_the_fields_of_every_file(root, options, told):
    fields = served(Static(root, **options), "a.txt")[1]
    assert fields["Content-Type"] == "text/plain; charset=utf-8"
    assert {name: fields[name] for name in fields.keys() & {"Vary", "Cache-Control", "Content-Encoding"}} == told


# precompressed


@pytest.fixture
def packed(root):
    (root / "a.txt.gz").write_bytes(b"gzipped")
    (root / "a.txt.br").write_bytes(b"brotli")
    (root / "empty.gz").write_bytes(b"gzipped")
    return Static(root)


CODED = [
    ("a.txt", None, b"a", None),
    ("a.txt", "", b"a", None),
    ("a.txt", "gzip", b"gzipped", "gzip"),
    ("a.txt", "gzip, deflate, br", b"brotli", "br"),
    ("a.txt", "gzip;q=1, br;q=0.9", b"gzipped", "gzip"),
    ("a.txt", "gzip;q=0", b"a", None),
    ("a.txt", "*", b"brotli", "br"),
    ("a.txt", "identity, gzip;q=0.5", b"a", None),
    ("a.txt", f"gzip;q={'0' * 300}", b"a", None),
    ("a.txt", "x, " * 200 + "gzip", b"gzipped", "gzip"),
    ("empty", "br, gzip;q=0.1", b"gzipped", "gzip"),
    ("empty", "br", b"", None),
    ("sub/b.txt", "br, gzip", b"b", None),
    ("a.txt.gz", "gzip", b"gzipped", None),
]


@pytest.mark.parametrize(("path", "accepted", "content", "coding"), CODED)
def test_the_form_that_a_client_prefers_is_served(packed, path, accepted, content, coding):
    for _ in range(2):
        body, fields = served(packed, path, accepted)
        assert body == content
        assert fields.get("Content-Encoding") == coding
        assert fields["Vary"] == "Accept-Encoding"
        if path == "a.txt":
            assert fields["Content-Type"] == "text/plain; charset=utf-8"


def test_a_packed_file_asked_for_by_its_own_name_is_no_coding(packed):
    assert served(packed, "a.txt.gz")[1]["Content-Type"] == "application/gzip"


def test_each_form_has_a_tag_of_its_own(root, packed):
    for name in ("a.txt", "a.txt.gz", "a.txt.br"):
        (root / name).write_bytes(b"1234")
        os.utime(root / name, (7, 7))
    assert len({opened(packed, "a.txt", accepted).validators.etag for accepted in (None, "gzip", "br")}) == 3


def test_a_form_without_its_original_is_not_served(root):
    (root / "only.js.gz").write_bytes(b"x")
    with pytest.raises(HTTPError, match="404"):
        Static(root)(request("gzip"), "only.js")


@pytest.mark.parametrize("target", ["../secret.txt", "sub", "fifo"])
def test_a_form_that_leads_elsewhere_is_passed_over(root, target):
    (root / "a.txt.br").symlink_to(target)
    (root / "a.txt.gz").write_bytes(b"gzipped")
    assert served(Static(root), "a.txt", "br, gzip")[0] == b"gzipped"


def test_no_form_is_looked_for_when_there_are_none(root, packed):
    assert served(Static(root, precompressed=False), "a.txt", "gzip")[0] == b"a"


@pytest.mark.parametrize(
    ("directory", "options", "reason"),
    [
        ("missing", {}, "missing is no directory"),
        ("a.txt", {}, "a.txt is no directory"),
        (".", {"cache_control": "a\nb"}, "Cache-Control"),
        (".", {"cache_control": 60}, "Cache-Control is 60"),
    ],
)
def test_what_cant_be_served_is_said_at_once(root, directory, options, reason):
    with pytest.raises(RouteError, match=reason):
        Static(root / directory, **options)


def test_the_name_tells_the_directory(root):
    assert repr(Static(root)) == f"Static({str(root)!r})"
