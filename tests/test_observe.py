"""Telling observers, each what it wants."""

from __future__ import annotations

from hypoll.message import NOBODY
from hypoll.observe import End, Exchange, Timeout

CALLS = {
    "on_open": (),
    "on_request": (object(),),
    "on_exchange": (Exchange(None, NOBODY, None, 400, "", 1, 2, 0.0, 0.0, 0.0, 1.0, End.REFUSED),),
    "on_shed": ("full",),
    "on_timeout": (Timeout.HEAD,),
    "on_close": (End.CLIENT,),
    "on_wait": (0.5,),
    "on_tick": (0.0, {"connections_idle": 1}),
    "on_stop": (),
}
