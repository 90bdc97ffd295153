"""A namespace for what an application notes."""

from __future__ import annotations

from typing import Any


class State:
    """Attributes of any name, for an application to set and to read: `request.state`, `routes.state`.

    Reading one that isn't set raises `AttributeError`; `hasattr` and `getattr` with a default ask whether it is.
    """

    def __getattr__(self, name: str) -> Any:
        """Raise `AttributeError`: what is set is found without this."""
        there = ", ".join(sorted(vars(self))) or "nothing"
        raise AttributeError(f"{name!r} isn't set in this state, which has: {there}", name=name, obj=self)

    # For type checkers: any attribute may be set and deleted.
    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
