"""Running code off the loop: a thread pool, asyncio, and what a process needs around them. Knows no HTTP."""
