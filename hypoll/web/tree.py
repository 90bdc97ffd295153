"""The tree that mounting makes of `Routes`.

Laws: what is declared anywhere is there at once for all that its `Routes` is mounted in, however late it is declared. A
`Routes` may be mounted at several places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, cast

from hypoll.contracts import HandlerCall, PeriodicWork, RunOn
from hypoll.web.handler_calls import below
from hypoll.web.hook_runner import HookRunner
from hypoll.web.hooks import Hooks
from hypoll.web.lifecycle import Lifecycle
from hypoll.web.naming import name_of
from hypoll.web.routing import Handler, Route, RouteError, check_handler, find_run_on, parse_path
from hypoll.web.scopes import ScopeTree
from hypoll.web.table import Table
from hypoll.web.urls import Names


class RouteTree:
    """What is declared in a `Routes`, and in those mounted in it.

    Args:
        hooks: the hooks of the `Routes` itself.
        on_change: is called when `hooked` or `streams` may be another.

    Attributes:
        table: every route, those of mounted ones included.
        hook_runner: answers requests with hooks.
        hooked: whether any of them needs `hook_runner`, or JSON is strict.
        streams: whether any route takes the body as it comes.
        lifecycle: the `Routes`' own; see `lifecycles`.
    """

    hooked = False
    streams = False
    _serves_wsgi = False

    def __init__(self, hooks: Hooks, on_change: Callable[[], object]) -> None:
        self.hooks = hooks
        self.scope_tree = ScopeTree(hooks)
        self.table = Table(self.scope_tree)
        self.hook_runner = HookRunner(self.table, self.scope_tree)
        self.lifecycle = Lifecycle()
        self._on_change = on_change
        self._names = Names()
        self._parents: list[_Parent] = []
        self._mounted: list[RouteTree] = []
        self._reserved: list[str] = []
        """The prefixes of mounted routes, whatever those have."""

    def members(self) -> list[RouteTree]:
        """This and all mounted ones, each once."""
        found: dict[int, RouteTree] = {}
        waiting = [self]
        while waiting:
            tree = waiting.pop(0)
            if id(tree) not in found:
                found[id(tree)] = tree
                waiting += tree._mounted
        return list(found.values())

    def lifecycles(self) -> list[Lifecycle]:
        """The life-cycle hooks, its own first."""
        return [tree.lifecycle for tree in self.members()]

    @property
    def periodic(self) -> list[PeriodicWork]:
        """The work of `Routes.every`."""
        return [work for lifecycle in self.lifecycles() for work in lifecycle.periodic]

    @property
    def uses_asyncio(self) -> bool:
        """Whether a handler or a hook is an `async def`."""
        return any(route.run_on is RunOn.TASK for route in self.table.routes()) or any(
            tree.hooks.waits or tree.lifecycle.is_async for tree in self.members()
        )

    def add(self, route: Route) -> None:
        """Add a route. Raises `RouteError`."""
        self._names.check(route)
        self.table.add(route)
        self._names.add(route)
        self.check_wsgi()
        self.streams |= route.stream
        self.table.redirects |= bool(route.redirects)
        self._on_change()
        for prefix, name, parent in self._parents:
            parent._add_mounted(prefix, name, route)

    def _add_mounted(self, prefix: str, mount_name: str | None, route: Route) -> None:
        path, name = prefix + route.path, route.url_name
        check_handler(path, route.handler, "request" if route.socket is None else "socket")
        if name is not None and mount_name is not None:
            name = f"{mount_name}.{name}"
        scopes, encoder = (self.hooks, *route.scopes), route.encoder.below(self.hooks)
        mounted = dataclasses.replace(route, path=path, scopes=scopes, url_name=name, encoder=encoder)
        if route.socket is None:
            call, direct = below(route.handler_call, encoder), below(route.direct, encoder)
        else:
            call = direct = cast("HandlerCall", route.socket.handler_call(encoder))
        self.add(dataclasses.replace(mounted, handler_call=call, direct=direct))

    def mount(self, prefix: str, name: str | None, other: RouteTree) -> None:
        """Have another tree below a prefix: see `Routes.mount`. Raises `RouteError`."""
        if not parse_path(prefix):
            raise RouteError("a prefix must begin with a slash, as in mount('/api', ...), and '' is none")
        if prefix.endswith("/"):
            raise RouteError(f"the prefix {prefix!r} must not end with a slash: its routes' paths begin with one")
        if self in other.members():
            raise RouteError(f"mounting at {prefix!r} would put the routes inside themselves")
        for route in other.table.routes():
            self._add_mounted(prefix, name, route)
        other._parents.append(_Parent(prefix, name, self))
        self._mounted.append(other)
        self.scope_tree.mount(prefix, other.scope_tree)
        for path in ("", *other._reserved):
            self._reserve(prefix + path)
        self.update()

    def _reserve(self, prefix: str) -> None:
        self.table.reserve(prefix)
        self._reserved.append(prefix)
        for parent in self._parents:
            parent.tree._reserve(parent.prefix + prefix)

    def update(self) -> None:
        """Choose the way of requests by what is declared here and in mounted ones, and so for what this is mounted in.

        It is past hooks, or the short one, where there are none and JSON isn't strict.
        """
        self.table.redirects |= self.hooks.redirects_slashes or any(tree.table.redirects for tree in self._mounted)
        finishes = self.hooks.finishes or any(tree.hook_runner.finishes for tree in self._mounted)
        below = any(tree.hooked for tree in self._mounted)
        self.hook_runner.finishes = finishes
        self.hooked = bool(self.hooks) or self.hooks.strict_json or finishes or below
        self._on_change()
        for parent in self._parents:
            parent.tree.update()

    def on_hook(self, is_async: bool) -> None:
        """A hook of requests was declared. Raises `RouteError`."""
        self.hooks.waits |= is_async
        self.check_wsgi()
        self.update()

    def refresh_encoders(self) -> None:
        """Have JSON encoded as `hooks` says now."""
        self.hooks.encoder.refresh()
        for route in self.table.routes():
            route.encoder.refresh()
        for parent in self._parents:
            parent.tree.refresh_encoders()

    def serve_wsgi(self) -> None:
        """Take nothing async from now on. Raises `RouteError` which names what there is."""
        self._refuse_async()
        self._serves_wsgi = True

    def check_wsgi(self) -> None:
        """Check what is served so again, when something was declared: this, and what it is mounted in.

        Raises:
            RouteError: As of `serve_wsgi`.
        """
        if self._serves_wsgi:
            self._refuse_async()
        for parent in self._parents:
            parent.tree.check_wsgi()

    def _refuse_async(self) -> None:
        routes = self.table.routes()
        found = [f"{'/'.join(route.methods)} {route.path}" for route in routes if route.run_on is RunOn.TASK]
        for tree in self.members():
            own, lifecycle = tree.hooks, tree.lifecycle
            hooks: list[Handler] = [*own.before, *own.after, *own.errors.values(), *lifecycle.start, *lifecycle.stop]
            found += [f"the hook {name_of(hook)}" for hook in hooks if find_run_on("", hook) is RunOn.TASK]
        if found:
            raise RouteError(f"routes.wsgi serves no async def, and these are: {', '.join(found)}")
        if self.periodic:
            places = ", ".join(work.place for work in self.periodic)
            raise RouteError(f"routes.wsgi has no periodic work done, and there is some: {places}")

    def path_of(self, name: str) -> str:
        """The path of the route of this name, the prefixes before it of all that this is mounted in.

        Raises:
            RouteError: Where no route has it, and where there are several such paths.
        """
        path, tree = self._names.find(name).path, self
        while tree._parents:
            parent, *others = tree._parents
            if others:
                places = ", ".join(each.prefix for each in tree._parents)
                raise RouteError(f"the routes of {name!r} are mounted at {places}: ask the Routes around them")
            path, tree = parent.prefix + path, parent.tree
        return path


class _Parent(NamedTuple):
    """Where a tree is mounted."""

    prefix: str
    name: str | None
    tree: RouteTree
