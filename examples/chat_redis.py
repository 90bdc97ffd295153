"""Rooms that span processes: what one publishes goes through Redis to the hubs of all. Needs `pip install redis`:

    hypoll chat_redis:routes --app-dir examples --workers 4

REDIS_URL: the server; default: redis://127.0.0.1:6379.
"""

import asyncio
import logging
import os

from redis.asyncio import Redis
from redis.exceptions import RedisError

from hypoll import Routes
from hypoll.websocket import Hub, Socket

PREFIX = "rooms:"
PAUSE = 1.0
"""Seconds until Redis is tried again."""

log = logging.getLogger(__name__)
routes = Routes()
hub = Hub()


@routes.on_start
async def start() -> None:
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
    routes.state.redis = Redis.from_url(url, decode_responses=True)
    routes.state.delivery = asyncio.create_task(deliver(routes.state.redis))


@routes.on_stop
async def stop() -> None:
    routes.state.delivery.cancel()
    await routes.state.redis.aclose()


async def deliver(redis: Redis) -> None:
    """Give the members here what any process publishes. What is published while Redis is away is lost."""
    while True:
        try:
            async with redis.pubsub() as subscription:
                await subscription.psubscribe(PREFIX + "*")
                async for message in subscription.listen():
                    if message["type"] == "pmessage":
                        hub.publish(message["channel"].removeprefix(PREFIX), message["data"])
        except RedisError as error:
            log.warning("no messages come from other processes: %s", error)
            await asyncio.sleep(PAUSE)


@routes.websocket("/rooms/{room}")
async def talk(socket: Socket, room: str) -> None:
    hub.join(room, socket)
    async for message in socket:
        if isinstance(message, str):
            try:
                await routes.state.redis.publish(PREFIX + room, message)
            except RedisError:
                await socket.close(1013, "try again later")
