"""moto's server with atomic conditional creates. Without this change moto checks and writes in two steps, so two creates of one key could
both succeed.
"""

from __future__ import annotations

import threading
from typing import Any

from moto.s3.responses import S3Response
from moto.server import main

_plain, _writing = S3Response.put_object, threading.Lock()


def _put_object(response: Any) -> Any:
    with _writing:
        return _plain(response)


if __name__ == "__main__":
    S3Response.put_object = _put_object  # type: ignore[method-assign, assignment]
    main()
