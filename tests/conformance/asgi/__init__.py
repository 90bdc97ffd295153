"""A conformance suite for ASGI servers; see README.md beside this package."""
