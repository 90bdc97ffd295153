"""Conformance suites: whether servers do what a specification says."""
