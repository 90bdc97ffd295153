"""Paths: what matches, and what wins."""

# ruff: noqa: A006 - as in the documentation's examples, a route's parameter is called id

from __future__ import annotations

import uuid
from typing import Any

import pytest

from hypoll import HTTPError
from hypoll.web.hooks import Hooks
from hypoll.web.routing import Route
from hypoll.web.scopes import ScopeTree
from hypoll.web.table import Table

ID = "0b9f5f0c-5b1e-4c53-9d4e-0d6a3c0f7a11"


def table_of(*paths: str) -> Table:
    table = Table(ScopeTree(Hooks()))
    for path in paths:
        table.add(Route(path, ("GET",), lambda request, **params: None))
    return table


def found(table: Table, path: str) -> list[tuple[str, dict[str, Any]]]:
    """The routes a path leads to, best first, with their parameters."""
    return [
        (methods["GET"].path, dict(zip(methods["GET"].names, values, strict=True)))
        for methods, values in table.find(path.encode())
    ]


@pytest.mark.parametrize(
    ("declared", "path", "params"),
    [
        ("/", "/", {}),
        ("/users", "/users", {}),
        ("/users/", "/users/", {}),
        ("/a//b", "/a//b", {}),
        ("/users/{name}", "/users/ann", {"name": "ann"}),
        ("/users/{name:str}", "/users/ann", {"name": "ann"}),
        ("/users/{name}/", "/users/ann/", {"name": "ann"}),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/n/{n:int}", "/n/0", {"n": 0}),
        ("/n/{n:int}", "/n/007", {"n": 7}),
        ("/n/{n:int}", "/n/" + "9" * 18, {"n": 10**18 - 1}),
        ("/n/{n:float}", "/n/1.5", {"n": 1.5}),
        ("/n/{n:float}", "/n/2", {"n": 2.0}),
        ("/n/{n:uuid}", f"/n/{ID}", {"n": uuid.UUID(ID)}),
        ("/n/{n:uuid}", f"/n/{ID.upper()}", {"n": uuid.UUID(ID)}),
        ("/files/{rest:path}", "/files/a/b/c.txt", {"rest": "a/b/c.txt"}),
        ("/files/{rest:path}", "/files/", {"rest": ""}),
        ("/files/{rest:path}", "/files//a/", {"rest": "/a/"}),
        ("/{rest:path}", "/", {"rest": ""}),
        # Cut into segments first, decoded then.
        ("/users/{name}", "/users/a%2Fb", {"name": "a/b"}),
        ("/users/{name}", "/users/a%2fb", {"name": "a/b"}),
        ("/users/{name}", "/users/%2F", {"name": "/"}),
        ("/users/{name}", "/users/100%25", {"name": "100%"}),
        ("/users/{name}", "/users/%252F", {"name": "%2F"}),
        ("/users/{name}", "/users/caf%C3%A9", {"name": "café"}),
        ("/users/{name}", "/users/a+b", {"name": "a+b"}),
        ("/users/{name}", "/users/%0A", {"name": "\n"}),
        ("/users/{name}", "/users/..", {"name": ".."}),
        ("/n/{n:int}", "/n/%31%32", {"n": 12}),
        ("/users", "/%75sers", {}),
        ("/café", "/caf%C3%A9", {}),
        ("/café", "/caf%c3%a9", {}),
        ("/a b", "/a%20b", {}),
        ("/a~b", "/a%7Eb", {}),
    ],
)
def test_matches(declared, path, params):
    assert found(table_of(declared), path) == [(declared, params)]


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("/", "//"),
        ("/users", "/users/"),
        ("/users/", "/users"),
        ("/users", "/Users"),
        ("/a/b", "/a%2Fb"),
        ("/users/{name}", "/users"),
        ("/users/{name}", "/users/"),
        ("/users/{name}", "/users/a/b"),
        ("/n/{n:int}", "/n/-1"),
        ("/n/{n:int}", "/n/+1"),
        ("/n/{n:int}", "/n/1.0"),
        ("/n/{n:int}", "/n/1_0"),
        ("/n/{n:int}", "/n/%20" + "1"),
        ("/n/{n:int}", "/n/1%0A"),
        ("/n/{n:int}", "/n/%D9%A1"),  # an Arabic-Indic digit
        ("/n/{n:int}", "/n/" + "9" * 19),
        ("/n/{n:float}", "/n/nan"),
        ("/n/{n:float}", "/n/inf"),
        ("/n/{n:float}", "/n/1e5"),
        ("/n/{n:float}", "/n/.5"),
        ("/n/{n:float}", "/n/1."),
        ("/n/{n:uuid}", f"/n/{ID.replace('-', '')}"),
        ("/n/{n:uuid}", f"/n/{{{ID}}}"),
        ("/n/{n:uuid}", f"/n/{ID[:-1]}g"),
        ("/files/{rest:path}", "/files"),
    ],
)
def test_does_not_match(declared, path):
    assert found(table_of(declared), path) == []


def test_a_path_that_is_not_utf8():
    with pytest.raises(HTTPError) as caught:
        table_of("/{name}").find(b"/%ff")
    assert caught.value.status == 400
    assert "UTF-8" in caught.value.detail


def test_the_most_special_route_wins_whatever_the_order_of_declaration():
    paths = ["/v/{x:path}", "/v/{x}", f"/v/{ID}", "/v/{x:uuid}", "/v/{x:float}", "/v/{x:int}", "/v/7"]
    for order in (paths, paths[::-1]):
        table = table_of(*order)
        assert [path for path, _ in found(table, "/v/7")] == [
            "/v/7",
            "/v/{x:int}",
            "/v/{x:float}",
            "/v/{x}",
            "/v/{x:path}",
        ]
        assert [path for path, _ in found(table, f"/v/{ID}")] == [f"/v/{ID}", "/v/{x:uuid}", "/v/{x}", "/v/{x:path}"]
        assert [path for path, _ in found(table, "/v/7/8")] == ["/v/{x:path}"]


def test_a_way_that_ends_nowhere_is_gone_back():
    table = table_of("/a/b/c", "/a/{x}/d", "/{y}/b/e", "/{rest:path}")
    assert found(table, "/a/b/c")[0] == ("/a/b/c", {})
    assert found(table, "/a/b/d")[0] == ("/a/{x}/d", {"x": "b"})
    assert found(table, "/a/b/e")[0] == ("/{y}/b/e", {"y": "a"})
    assert found(table, "/a/b/f") == [("/{rest:path}", {"rest": "a/b/f"})]


def test_static_paths_are_keyed_as_they_are_received():
    table = table_of("/", "/a b", "/café", "/x:y@z;p=1,2", "/users/{id}")
    assert set(table.static) == {b"/", b"/a%20b", b"/caf%C3%A9", b"/x:y@z;p=1,2"}


def test_routes_come_sorted_by_path_and_once_each():
    table = table_of("/b", "/a/{x}", "/a")
    table.add(Route("/c", ("GET", "POST"), lambda request: None))
    assert [(route.path, route.methods) for route in table.routes()] == [
        ("/a", ("GET",)),
        ("/a/{x}", ("GET",)),
        ("/b", ("GET",)),
        ("/c", ("GET", "POST")),
    ]


@pytest.mark.parametrize("path", ["/v1/users:batch", "/a:b/c", "/<", "/a<b>", "/<b>c", "/<a-b>"])
def test_a_colon_or_a_bracket_inside_a_segment_is_itself(path):
    assert found(table_of(path), path) == [(path, {})]


def test_a_route_declared_later_is_found_where_a_path_was_looked_for_before():
    table = table_of("/files/{path:path}")
    assert found(table, "/files/1") == [("/files/{path:path}", {"path": "1"})] == found(table, "/files/1")
    table.add(Route("/files/{id:int}", ("GET",), lambda request, id: None))
    assert [path for path, _ in found(table, "/files/1")] == ["/files/{id:int}", "/files/{path:path}"]
