"""The pattern of a request's route, from what frameworks leave in its scope. None of them is imported for that.

Law: nothing of a path that a client chose is in it, so that there are as many as an application declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def pattern_of(scope: Mapping[str, Any]) -> str | None:
    """The path of a request's route as it was declared; None: the scope doesn't tell.

    It is `path_template` (Litestar); `route` if that is a str, as middleware may set it; the `path` of `route` behind
    what it is mounted at (Starlette, FastAPI).
    """
    for name in ("path_template", "route"):
        if isinstance(scope.get(name), str):
            return str(scope[name])
    route = scope.get("route")
    path = getattr(route, "path", None)
    if not isinstance(path, str):
        path = ""
    elif hasattr(route, "routes") and "app_root_path" in scope:
        path = ""  # a mount itself, of which `root_path` tells already
    prefix = _mounted_at(scope, path)
    return None if prefix is None else prefix + path or None


def _mounted_at(scope: Mapping[str, Any], path: str) -> str | None:
    """The pattern of what Starlette's mounts took from the path; None: it can't be told.

    Args:
        scope: `app_root_path` is the root path before any mount, `root_path` the one behind all of them; parameters of
            mounts are among `path_params`.
        path: the pattern of the route within, whose parameters are the others.
    """
    base, root_path, params = scope.get("app_root_path"), scope.get("root_path"), scope.get("path_params")
    if not isinstance(base, str) or not isinstance(root_path, str) or not root_path.startswith(base):
        return ""
    prefix = root_path[len(base) :] + "/"
    for name, value in params.items() if isinstance(params, Mapping) else ():
        if f"{{{name}}}" in path or f"{{{name}:" in path:
            continue
        before, found, behind = prefix.rpartition(f"/{value}/")
        if not found:
            return None
        prefix = f"{before}/{{{name}}}/{behind}"
    return prefix[:-1]
