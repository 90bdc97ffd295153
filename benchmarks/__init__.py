"""What hypoll costs, measured: `scripts/bench`."""
