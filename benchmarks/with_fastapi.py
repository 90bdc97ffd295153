"""An application of FastAPI with one route, which answers as the json row does."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/json")
async def json() -> dict[str, str]:
    """Answer with what `floor.c` answers."""
    return {"message": "Hello, World!"}
