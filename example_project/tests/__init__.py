"""The example's own tests: no broker, no Redis, no worker, and no waiting for retries."""
