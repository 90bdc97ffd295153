"""Fields that have browsers guard the pages of a service.

Law: what an application has set of them stays, and with it what is said of framing elsewhere.
"""

from __future__ import annotations

import re

from hypoll.protocol.fields import check_field
from hypoll.protocol.messages import Request, Response
from hypoll.web.routing import RouteError

POLICY = "Content-Security-Policy"
FRAMES = "X-Frame-Options"
HSTS = "Strict-Transport-Security"

_FRAME_OPTIONS = {"'none'": "DENY", "'self'": "SAMEORIGIN"}
"""X-Frame-Options (RFC 7034) by the frame-ancestors that mean the same; others it can't say."""

_HAS_ANCESTORS = re.compile(r"(?:^|;)\s*frame-ancestors(?:\s|;|$)", re.IGNORECASE)


class SecureHeaders:
    """What `Routes.secure_headers` declares: see there. Raises `RouteError` for what can't be sent."""

    def __init__(
        self,
        *,
        hsts: str | None,
        referrer_policy: str | None,
        frame_ancestors: str | None,
        content_security_policy: str | None,
        opener_policy: str | None,
        resource_policy: str | None,
        permissions_policy: str | None,
    ) -> None:
        policy = content_security_policy
        if frame_ancestors is not None and not (policy and _HAS_ANCESTORS.search(policy)):
            policy = "; ".join(filter(None, ((policy or "").rstrip("; "), f"frame-ancestors {frame_ancestors}")))
        given = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": referrer_policy,
            "Cross-Origin-Opener-Policy": opener_policy,
            "Cross-Origin-Resource-Policy": resource_policy,
            "Permissions-Policy": permissions_policy,
        }
        self._fields = _checked(given)
        self._secure = _checked({HSTS: hsts})
        self._policy = _checked({POLICY: policy})
        self._policy_without_frames = _checked({POLICY: content_security_policy})
        self._frames = _checked({FRAMES: _FRAME_OPTIONS.get(frame_ancestors or "")})

    def finish(self, request: Request, response: Response) -> Response:
        """Set those of the fields that the answer doesn't have."""
        fields = response.headers
        known = {name.lower() for name in fields}
        wanted = [*self._fields, *(self._secure if request.scheme == "https" else ())]
        # Where both are sent, browsers go by frame-ancestors (CSP 3, 6.4.2.2): it must not overrule the application's.
        wanted += self._policy_without_frames if FRAMES.lower() in known else self._policy
        wanted += () if POLICY.lower() in known else self._frames
        for name, value in wanted:
            if name.lower() not in known:
                fields.add(name, value)
        return response


def _checked(fields: dict[str, str | None]) -> list[tuple[str, str]]:
    try:
        return [check_field(name, value) for name, value in fields.items() if value is not None]
    except (TypeError, ValueError) as error:
        raise RouteError(f"secure_headers: {error}") from None
