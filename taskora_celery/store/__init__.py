"""Where job records are kept: the protocol, Redis, and the in-memory twin."""
