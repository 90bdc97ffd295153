"""WSGI applications served, and routes served by other WSGI servers (PEP 3333)."""
