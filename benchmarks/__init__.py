"""Benchmarks: each is one command, and compares within one run. Not in the installed package."""
