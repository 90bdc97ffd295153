"""What is recorded of the server, and where it goes: logs, metrics, health, the status page."""
