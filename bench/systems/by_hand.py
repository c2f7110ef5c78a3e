"""FastAPI around scikit-learn, as one writes it by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from bench.systems.system import System


class ByHand(System):
    name = "fastapi"
    about = "FastAPI, pydantic, scikit-learn as one writes it; uvicorn, one worker, no access log"
    distributions = ("fastapi", "pydantic", "uvicorn", "scikit-learn")

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", "bench.servers.by_hand:app"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--log-level", "warning", "--no-access-log"),
        ]

    def environment(self) -> Mapping[str, str]:
        return {"MODEL_PATH": str(self.subject.pickle)}


class ByHandAsync(ByHand):
    name = "fastapi-async"
    about = "the same with `async def`: no thread hop, and nothing else answers meanwhile"
    path = "/predict-async"
