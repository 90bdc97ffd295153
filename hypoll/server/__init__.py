"""Where sockets meet HTTP, and nowhere else: listeners, connections, bodies both ways."""
