"""Bascule itself: `bascule serve`, with validation, ids and metrics on, control API running."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from bench.subject import NAME
from bench.systems.system import System


class Bascule(System):
    name = "bascule"
    about = "`bascule serve`, one worker; the control API's process is counted too"
    distributions = ("bascule", "onnxruntime", "uvloop", "httptools")
    path = f"/v2/models/{NAME}/infer"

    def offers(self, coding: str) -> bool:
        """A release from before binary tensors is measured too: a server says what it speaks."""
        if coding != "binary":
            return super().offers(coding)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2", timeout=10) as answer:
            return "binary_tensor_data" in json.load(answer)["extensions"]

    def command(self) -> list[str]:
        return [
            str(Path(sys.executable).with_name("bascule")),
            "serve",
            str(self.subject.bundle),
            f"--port={self.port}",
            f"--control-port={self.other_port}",
            "--workers=1",
        ]
