"""The health check of a container: exits 0 if the server in it is ready."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection


def main() -> int:
    port = os.environ.get("AIP_HTTP_PORT") or os.environ.get("BASCULE_SERVING__PORT", "8080")
    connection = HTTPConnection("127.0.0.1", int(port), timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
