"""What a message of HTTP/1.1 is, how it is validated and written. No sockets, no settings."""
