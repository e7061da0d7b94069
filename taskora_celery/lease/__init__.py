"""Keeping a message invisible to other workers while its job runs: one protocol, one adapter per transport."""
