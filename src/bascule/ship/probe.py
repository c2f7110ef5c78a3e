"""The health check of a container: exits 0 if the server in it is ready."""

from __future__ import annotations

import os
import sys
import tomllib
from http.client import HTTPConnection, HTTPException
from pathlib import Path

_VARIABLES = ("BASCULE_SERVING__PORT", "SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT")
"""Which say the port, the first of them with a value; else the settings of the image."""


def main() -> int:
    connection = HTTPConnection("127.0.0.1", _port(), timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1


def _port() -> int:
    said = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), None)
    if said is None:
        settings = tomllib.loads(Path("bascule.toml").read_text())
        said = settings["serving"]["port"]
    return int(said)


if __name__ == "__main__":
    sys.exit(main())
