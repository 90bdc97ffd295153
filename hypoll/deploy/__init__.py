"""Many processes, and where they run: gunicorn, reloading, CPUs, the checks before a start."""
