"""Benchmarks of the budgets: ``python -m benchmarks [row …]``. They report; no test asserts on time."""
