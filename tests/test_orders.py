"""The example with a bit of everything, by a server of its own, beside the warehouse that it calls."""

from __future__ import annotations

import contextlib
import json
import queue
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from hypoll import HTTPError, Routes
from hypoll.testing import TestClient
from tests.support.examples import load

TEA = {"item": "tea", "quantity": 2, "price": "3.10"}
JPEG = b"\xff\xd8\xff\xe0 a photo"


class Warehouse:
    """The other service.

    Attributes:
        told: the orders that it was told of.
    """

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.routes = Routes()
        self.routes.post("/deliveries")(lambda request: self.told.put(request.json()["order"]))
        self.routes.get("/deliveries/{order:int}")(self.state_of)

    def state_of(self, request: object, order: int) -> Any:
        if order == 2:
            raise HTTPError(404)
        return "no JSON" if order == 3 else {"delivery": "on its way"}


@pytest.fixture(scope="module")
def warehouse() -> Iterator[tuple[Warehouse, str]]:
    one = Warehouse()
    with TestClient(one.routes) as client:
        yield one, client.base_url


def configure(monkeypatch: pytest.MonkeyPatch, directory: Path, url: str) -> None:
    monkeypatch.setenv("ORDERS_TOKENS", "ada=s3cret,grace=hush")
    monkeypatch.setenv("ORDERS_DIR", str(directory))
    monkeypatch.setenv("ORDERS_ORIGIN", "https://shop.example")
    monkeypatch.setenv("WAREHOUSE_URL", url)


@contextlib.contextmanager
def serving(module: ModuleType) -> Iterator[TestClient]:
    with TestClient(module.routes) as client:
        client.headers["Authorization"] = "Bearer s3cret"
        yield client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, warehouse: tuple[Warehouse, str]) -> Iterator[TestClient]:
    """One that several tests share: they don't know which orders there are."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        configure(monkeypatch, tmp_path_factory.mktemp("orders"), warehouse[1])
        with serving(load("orders")) as client:
            yield client


@pytest.fixture
def client(service: TestClient) -> TestClient:
    service.headers["Authorization"] = "Bearer s3cret"
    service.cookies.clear()
    return service


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warehouse: tuple[Warehouse, str]) -> ModuleType:
    """The module, of a service without orders."""
    configure(monkeypatch, tmp_path, warehouse[1])
    return load("orders")


def made(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/api/orders", json={**TEA, **changes})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def detail(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    return str(answer.json()["detail"])


def test_an_order_is_made_and_read(client, warehouse):
    made = client.post("/api/orders", json=TEA)
    assert made.status_code == 201
    order = made.json()
    assert order == {"id": order["id"], "customer": "ada", **TEA}
    assert made.headers["Location"] == f"/api/orders/{order['id']}"
    assert client.get(made.headers["Location"]).json() == order
    assert order["id"] in iter(lambda: warehouse[0].told.get(timeout=10), None)


@pytest.mark.parametrize(
    "order",
    [
        *({}, [], "tea", 7, None),
        *({**TEA, "quantity": quantity} for quantity in (0, -1, 1001, "2", 2.0, None)),
        *({**TEA, "price": price} for price in ("3.1", "", "-3.10", "NaN", "1e9", 3.1, "1234567.00", None)),
        *({**TEA, "item": item} for item in ("", 7, "a" * 201)),
    ],
)
def test_what_is_no_order_is_refused(client, order):
    before = client.get("/api/orders").json()
    assert "an order is an object" in detail(client.post("/api/orders", data=json.dumps(order)), 422)
    assert client.get("/api/orders").json() == before


def test_what_is_no_json_is_refused(client):
    assert "not JSON" in detail(client.post("/api/orders", data=b"{"), 400)


def test_orders_come_page_by_page(orders):
    rows = [("ada", str(number), 1, "0.10") for number in range(orders.PAGE * 2)]
    with serving(orders) as client:
        with orders.database() as db:
            db.executemany("INSERT INTO orders (customer, item, quantity, price) VALUES (?, ?, ?, ?)", rows)
        first = client.get("/api/orders").json()
        assert first["next"] == "/api/orders?page=2"
        second = client.get(first["next"]).json()
        assert second["next"] is None
        items = [order["item"] for page in (first, second) for order in page["orders"]]
        assert items == [row[1] for row in rows]
        assert client.get("/api/orders?page=3").json() == {"orders": [], "next": None}


@pytest.mark.parametrize("page", ["0", "-1", "two", "", "1000000001", "9" * 30])
def test_a_bad_page_is_refused(client, page):
    assert "'page'" in detail(client.get("/api/orders", params={"page": page}), 400)


@pytest.mark.parametrize("path", ["/api/orders/999999", "/api/orders/x", "/api/nothing", "/nothing"])
def test_what_is_not_there(client, path):
    assert detail(client.get(path), 404)


@pytest.mark.parametrize("path", ["/api/orders", "/api/orders/1/photo", "/api/orders/events", "/api/nothing"])
@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic s3cret"])
def test_without_a_token_nothing_is_told(client, path, token):
    client.headers["Authorization"] = token
    refused = client.get(path)
    assert detail(refused, 401)
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


def test_each_customer_has_a_token(client):
    client.headers["Authorization"] = "Bearer hush"
    assert made(client)["customer"] == "grace"


def test_a_browser_logs_in(client):
    del client.headers["Authorization"]
    assert "<form method=post>" in client.get("/login").text
    refused = client.post("/login", data={"token": "wrong"})
    assert (refused.status_code, client.cookies.get("token")) == (403, None)
    entered = client.post("/login", data={"token": "s3cret"})
    assert (entered.request.path_url, entered.status_code) == ("/api/orders", 200)
    cookie = entered.history[0].headers["Set-Cookie"]
    assert cookie == "token=s3cret; Path=/; HttpOnly; SameSite=Strict"


def test_the_cookie_is_for_tls_alone_where_that_is(client):
    entered = client.post(
        "/login", data={"token": "s3cret"}, headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
    )
    assert "; Secure" in entered.headers["Set-Cookie"]


def test_a_page_of_the_shop_may_call(client):
    asking = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST", "Authorization": ""}
    preflight = client.options("/api/orders", headers=asking)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (204, "https://shop.example")
    other = client.get("/api/orders", headers={"Origin": "https://elsewhere.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert other.headers["X-Content-Type-Options"] == "nosniff"


def test_a_long_page_is_compressed(client):
    order = made(client, item="tea" * 60)
    assert "Content-Encoding" not in client.get(f"/api/orders/{order['id']}").headers
    for _ in range(5):
        made(client)
    assert client.get("/api/orders").headers["Content-Encoding"] in ("gzip", "br", "zstd")


def test_an_order_has_a_photo(client):
    path = f"/api/orders/{made(client)['id']}/photo"
    assert client.get(path).status_code == 404
    assert client.post(path, files={"photo": ("../x", JPEG)}).status_code == 204
    photo = client.get(path)
    assert (photo.content, photo.headers["Content-Type"]) == (JPEG, "image/jpeg")


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"photo": ("a", b"a PNG")}, 415),
        ({"picture": ("a", JPEG)}, 400),
        ({"photo": ("a", JPEG + bytes(4 * 1024 * 1024))}, 413),
    ],
)
def test_another_photo_is_refused(client, form, status):
    path = f"/api/orders/{made(client)['id']}/photo"
    assert detail(client.post(path, files=form), status)
    assert client.get(path).status_code == 404


def test_without_an_order_there_is_no_photo(client):
    assert detail(client.post("/api/orders/999999/photo", files={"photo": ("a", JPEG)}), 404)
    assert client.get("/api/orders/999999/photo").status_code == 404


def test_a_delivery_is_what_the_warehouse_says(client):
    assert client.get("/api/orders/1/delivery").json() == {"delivery": "on its way"}


@pytest.mark.parametrize("number", [2, 3])
def test_a_warehouse_that_fails_is_a_bad_gateway(client, number):
    assert detail(client.get(f"/api/orders/{number}/delivery"), 502) == "the warehouse doesn't answer"


def test_without_a_warehouse_orders_are_made_all_the_same(orders, monkeypatch, caplog):
    monkeypatch.setenv("WAREHOUSE_URL", "http://127.0.0.1:1")
    with serving(orders) as client:
        order = made(client)  # the server's end waits for the work behind the answer
    (record,) = (one for one in caplog.records if one.levelname == "WARNING")
    assert (record.message, record.order) == ("the warehouse doesn't know of an order", order["id"])


def followed(client: TestClient, last: str | None = None) -> Generator[dict[str, Any]]:
    """The orders that come as events."""
    with client.get("/api/orders/events", headers={"Last-Event-ID": last}, stream=True, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_orders_are_events(orders, monkeypatch):
    monkeypatch.setattr(orders, "POLL", 0.01)
    with serving(orders) as client:
        first = made(client)
        with contextlib.closing(followed(client)) as events:
            assert next(events) == first
            second = made(client, item="coffee")
            assert next(events) == second


def test_who_comes_back_continues(client):
    orders = [made(client) for _ in range(3)]
    with contextlib.closing(followed(client, str(orders[0]["id"]))) as events:
        assert [next(events), next(events)] == orders[1:]
    assert "'Last-Event-ID'" in detail(client.get("/api/orders/events", headers={"Last-Event-ID": "x"}), 400)


def test_without_tokens_there_is_no_service(orders, monkeypatch):
    monkeypatch.delenv("ORDERS_TOKENS")
    with pytest.raises(KeyError, match="ORDERS_TOKENS"), TestClient(orders.routes):
        pytest.fail("it was started")


def test_orders_outlive_the_server(orders):
    for count in (1, 2):
        with serving(orders) as client:
            made(client)
            assert len(client.get("/api/orders").json()["orders"]) == count
