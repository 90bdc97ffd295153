"""Whom to believe about a client: networks of addresses, header fields of proxies, the PROXY protocol."""
