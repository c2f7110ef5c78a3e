"""The floor of Python: the leanest server that we know to write around the same ONNX file."""

from __future__ import annotations

import sys

from bench.systems.system import System


class Bare(System):
    name = "bare"
    about = "uvloop, httptools, msgspec, numpy and ONNX Runtime, inline; checks nothing"
    codings = ("json", "binary")
    distributions = ("uvloop", "httptools", "msgspec", "onnxruntime")

    def command(self) -> list[str]:
        program, port = str(self.subject.program), str(self.port)
        return [sys.executable, "-m", "bench.servers.bare", program, port]
