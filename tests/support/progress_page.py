"""What docs/progress-bars.md writes; as a program it is a Django site that answers one request after the other."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tests.support.pages import DOCS, code_of

exec(compile(code_of("progress-bars.md"), str(DOCS / "progress-bars.md"), "exec"), globals())
app: Any = globals()["app"]
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
)


def __getattr__(name: str) -> Any:
    """For mypy: the page defines the rest."""
    raise AttributeError(name)


def main(job_id: str) -> None:
    """Print what the site's pages say of a job, as JSON."""
    from django.conf import settings
    from django.test import AsyncClient, Client

    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
    client = Client()

    async def events() -> str:
        response: Any = await AsyncClient().get(f"/jobs/{job_id}/events")
        return b"".join([frame async for frame in response.streaming_content]).decode()

    json.dump(
        {
            "progress": client.get(f"/jobs/{job_id}").json(),
            "unknown": client.get("/jobs/nobody").json(),
            "cancel": client.post(f"/jobs/{job_id}/cancel").json(),
            "by GET": client.get(f"/jobs/{job_id}/cancel").status_code,
            "events": asyncio.run(events()),
            "sent": client.post("/imports", {"rows": "3"}).json(),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1])
