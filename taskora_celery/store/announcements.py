"""What is announced to the processes that run jobs, as bytes: one channel, two kinds of message."""

from __future__ import annotations

import msgspec

from taskora_celery.store.protocol import CancelRequest, Shutdown

__all__ = ["packed", "unpacked"]

_encoder = msgspec.msgpack.Encoder()
_cancel = msgspec.msgpack.Decoder(CancelRequest)
_shutdown = msgspec.msgpack.Decoder(Shutdown)


def packed(announcement: CancelRequest | Shutdown) -> bytes:
    """Return an announcement as bytes."""
    return (b"s" if isinstance(announcement, Shutdown) else b"c") + _encoder.encode(announcement)


def unpacked(data: bytes) -> CancelRequest | Shutdown | None:
    """Return what was announced; None for what cannot be read, such as a newer version's."""
    try:
        return _shutdown.decode(data[1:]) if data[:1] == b"s" else _cancel.decode(data[1:]) if data[:1] == b"c" else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
