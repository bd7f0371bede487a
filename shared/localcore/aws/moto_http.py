"""moto's S3, Kinesis and Secrets Manager on one port, without a log line per request, with the faults a test may order.

moto keeps everything in memory and never lets go of it: a Kinesis record costs about twice its size. That is fine for
demonstrations and tests of minutes, not for days.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from localcore.aws.faults import Faults

_SERVICE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/")


class _RequestHandler(MotoRequestHandler):
    """Keeps connections open between requests, as AWS does."""

    protocol_version = "HTTP/1.1"


class MotoServer:
    """Serves moto from threads that end with the process."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._moto = DomainDispatcherApplication(create_backend_app)

    def start(self, port: int = 0) -> int:
        """Listens on loopback and returns the port."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = make_server("127.0.0.1", port, self._serve, threaded=True, request_handler=_RequestHandler)
        server.daemon_threads = True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.port

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = _SERVICE.search(environ.get("HTTP_AUTHORIZATION", ""))
        if found is not None and self._faults.take(found[1], "unavailable"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer
