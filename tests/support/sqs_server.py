"""moto's SQS as a process of its own, made as strict as the real one: ``python sqs_server.py`` prints its port when it listens.

moto takes the receipt handle of any delivery of a message for the newest one's, hides a message again that was visible
already, and refuses a whole batch for one entry that goes past the limit of 12 hours.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

from moto.server import ThreadedMotoServer
from moto.sqs import models
from moto.sqs.exceptions import ReceiptHandleIsInvalid, SQSException


def be_strict() -> None:
    """Change moto, in this process."""
    change = models.SQSBackend.change_message_visibility

    @functools.wraps(change)
    def change_message_visibility(self: Any, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
        messages = self.get_queue(queue_name)._messages
        if not any(message.receipt_handle == receipt_handle and not message.visible for message in messages):
            raise ReceiptHandleIsInvalid
        change(self, queue_name, receipt_handle, visibility_timeout)

    def change_message_visibility_batch(self: Any, queue_name: str, entries: list[dict[str, Any]]) -> tuple[list[str], list[Any]]:
        self.get_queue(queue_name)  # that it does not exist is no matter of the single entries
        done, failed = [], []
        for entry in entries:
            try:
                self.change_message_visibility(queue_name, entry["ReceiptHandle"], int(entry["VisibilityTimeout"]))
                done.append(entry["Id"])
            except SQSException as exc:
                code, text = getattr(exc, "code", type(exc).__name__), getattr(exc, "message", "")
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": code, "Message": text})
        return done, failed

    models.SQSBackend.change_message_visibility = change_message_visibility
    models.SQSBackend.change_message_visibility_batch = change_message_visibility_batch


def main() -> None:
    """Serve until the process is ended."""
    be_strict()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    sys.stdout.write(f"SQS listens on port {server.get_host_and_port()[1]}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
