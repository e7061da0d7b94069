"""What the tests stand on: a Redis of their own, real workers, and polling that says what it waited for."""
