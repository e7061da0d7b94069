"""The test suite: ``unit`` needs nothing, ``integration`` a Redis, ``acceptance`` real worker processes."""
