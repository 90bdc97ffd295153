"""The corpus of frames: what a peer sends, and what must come of it."""
