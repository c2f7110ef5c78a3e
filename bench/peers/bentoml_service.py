"""BentoML around the model, without its access log.

bentoml serve bench.peers.bentoml_service:GradientBoosting
"""

from __future__ import annotations

from typing import Any

import bentoml

from bench.peers.model import answer_of, load, rows_of


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class GradientBoosting:
    def __init__(self) -> None:
        self._predict = load()

    @bentoml.api
    def predict(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return answer_of(*self._predict(rows_of({"inputs": inputs})))
