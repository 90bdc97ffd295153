"""From a request to a handler's result: routing, hooks, results, static files, events."""
