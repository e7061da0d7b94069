"""Prometheus metrics of an app's jobs, from the store's counts and index; never from inside the processes that run jobs."""
