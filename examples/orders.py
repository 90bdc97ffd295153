"""Orders of a shop, on SQLite: the daily needs of a service, whole. Needs `pip install httpx`, and starts like this:

    ORDERS_TOKENS=ada=s3cret hypoll orders:routes --app-dir examples --metrics /metrics --health /healthz

ORDERS_TOKENS: who may order, as NAME=TOKEN,NAME=TOKEN.
ORDERS_DIR: the directory of the database and the photos; default: the current one.
ORDERS_ORIGIN: where the pages come from that may call the API; default: http://localhost:3000.
WAREHOUSE_URL: the service that delivers; default: http://127.0.0.1:8001.
"""

import asyncio
import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from hypoll import Event, File, HTTPError, Request, Response, Routes, bearer, html, redirect, sse

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    customer TEXT NOT NULL,
    item TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    price TEXT NOT NULL
)
"""
LOGIN = "<!doctype html><title>Orders</title><form method=post><input name=token type=password><button>Log in</button>"
PRICE = re.compile(r"[0-9]{1,6}\.[0-9]{2}")
PAGE = 20
POLL = 0.5
"""Seconds between two looks for new orders: other processes make some, too."""

log = logging.getLogger(__name__)
routes = Routes()
routes.cors(os.environ.get("ORDERS_ORIGIN", "http://localhost:3000"))
routes.compress()
routes.secure_headers()
api = Routes()
routes.mount("/api", api)


@dataclass
class Order:
    id: int
    customer: str
    item: str
    quantity: int
    price: Decimal


@api.on_start
async def start() -> None:
    tokens = [entry.split("=", 1) for entry in os.environ["ORDERS_TOKENS"].split(",")]
    api.state.customers = {digest(token): name for name, token in tokens}
    api.state.directory = Path(os.environ.get("ORDERS_DIR", ""))
    api.state.warehouse = os.environ.get("WAREHOUSE_URL", "http://127.0.0.1:8001")
    api.state.client = httpx.AsyncClient(base_url=api.state.warehouse, timeout=5)
    with database() as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(SCHEMA)


@api.on_stop
async def stop() -> None:
    await api.state.client.aclose()


@contextlib.contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A transaction, on a connection of its own: handlers run on several threads."""
    with contextlib.closing(sqlite3.connect(api.state.directory / "orders.db")) as db, db:
        yield db


def find(sql: str, *values: object) -> list[Order]:
    with database() as db:
        rows = db.execute(sql, values).fetchall()
    return [Order(number, customer, item, quantity, Decimal(price)) for number, customer, item, quantity, price in rows]


def find_one(order_id: int) -> Order:
    """An order. Raises `HTTPError` 404."""
    for order in find("SELECT * FROM orders WHERE id = ?", order_id):
        return order
    raise HTTPError(404, f"there is no order {order_id}")


# who is asking


def digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def customer_of(token: str) -> str | None:
    """Whose token it is. It is looked up by its digest, so that the time it takes tells nothing of the others."""
    customer: str | None = api.state.customers.get(digest(token))
    return customer


check_token = bearer(customer_of)


@api.before
def authenticate(request: Request) -> None:
    """By the cookie of a browser, whose EventSource can send nothing else, or by the token in Authorization."""
    request.state.principal = customer_of(request.cookies.get("token", ""))
    if request.state.principal is None:
        check_token(request)


@routes.get("/login")
def login_page(request: Request) -> Response:
    return html(LOGIN)


@routes.post("/login")
def login(request: Request) -> Response:
    token = request.form()["token"]
    if customer_of(token) is None:
        return html(LOGIN, 403)
    response = redirect(api.url_for("orders"))
    response.set_cookie("token", token, secure=request.scheme == "https", samesite="Strict")
    return response


# the API


def positive(text: str) -> int:
    """A number from 1 to a thousand million, in a query or a header field."""
    if not 1 <= int(text) <= 1_000_000_000:
        raise ValueError
    return int(text)


@api.get("/orders", threaded=True, name="orders")
def index(request: Request) -> dict[str, Any]:
    page = request.query.get("page", 1, type=positive)
    # One order more than the page has shows whether there is a next page.
    orders = find("SELECT * FROM orders ORDER BY id LIMIT ? OFFSET ?", PAGE + 1, (page - 1) * PAGE)
    following = api.url_for("orders", query={"page": page + 1}) if len(orders) > PAGE else None
    return {"orders": orders[:PAGE], "next": following}


@api.post("/orders", threaded=True)
def create(request: Request) -> Response:
    match request.json():
        case {"item": str(item), "quantity": int(quantity), "price": str(price)} if (
            0 < len(item) <= 200 and 0 < quantity <= 1000 and PRICE.fullmatch(price)
        ):
            values = request.state.principal, item, quantity, price
        case _:
            raise HTTPError(422, 'an order is an object, as in {"item": "tea", "quantity": 2, "price": "3.10"}')
    sql = "INSERT INTO orders (customer, item, quantity, price) VALUES (?, ?, ?, ?) RETURNING *"
    (order,) = find(sql, *values)
    log.info("ordered", extra={"order": order.id, "customer": order.customer})
    location = {"Location": api.url_for("order", order_id=order.id)}
    return Response(order, 201, location, background=partial(tell_warehouse, order))


def tell_warehouse(order: Order) -> None:
    try:
        httpx.post(f"{api.state.warehouse}/deliveries", json={"order": order.id}, timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        log.warning("the warehouse doesn't know of an order", extra={"order": order.id, "reason": str(error)})


@api.get("/orders/{order_id:int}", threaded=True, name="order")
def read(request: Request, order_id: int) -> Order:
    return find_one(order_id)


@api.get("/orders/{order_id:int}/delivery", timeout=10)
async def delivery(request: Request, order_id: int) -> Any:
    """What the warehouse says of an order."""
    try:
        answer = await api.state.client.get(f"/deliveries/{order_id}")
        return answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise HTTPError(502, "the warehouse doesn't answer") from error


@api.post("/orders/{order_id:int}/photo", threaded=True, max_body=4 * 1024 * 1024)
def add_photo(request: Request, order_id: int) -> None:
    photo = request.form().files["photo"]
    if photo.read(3) != b"\xff\xd8\xff":
        raise HTTPError(415, "a photo is a JPEG")
    photo.save(api.state.directory / f"{find_one(order_id).id}.jpg")


@api.get("/orders/{order_id:int}/photo")
def photo(request: Request, order_id: int) -> File:
    return File(api.state.directory / f"{order_id}.jpg")


@api.get("/orders/events")
async def events(request: Request) -> Response:
    """All orders, and new ones as they come. A client that comes back continues behind the last one that it has."""

    async def orders(last: int) -> AsyncIterator[Event]:
        while True:
            for order in await asyncio.to_thread(find, "SELECT * FROM orders WHERE id > ? ORDER BY id LIMIT 100", last):
                last = order.id
                yield Event(order, event="order", id=str(last))
            await asyncio.sleep(POLL)

    return sse(orders(request.headers.get("Last-Event-ID", 0, type=positive)))
