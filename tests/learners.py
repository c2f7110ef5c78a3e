"""Predictions of a model in a ledger, by the real recorder, and truths that come later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from bascule.monitoring.ledger import Outcomes, SpoolWriter
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels


def record(
    home: Path, rows: Sequence[dict[str, Any]], labels: Sequence[Any], *, model: str = "late",
    version: str = "1", first: int = 0, output: str = "label", arm: str = "",
) -> list[str]:  # fmt: skip
    """Answer each row by its label, or number; gives the ids, of which `first` is the first."""
    recorder = LedgerRecorder(SpoolWriter(home), max_rows_per_s=10**9)
    start_ns = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1e9)
    ids = [f"p{number:06d}" for number in range(first, first + len(rows))]
    by, label_of = AnsweredBy(model, version, "onnx"), MetricLabels(model, version, model, arm)
    for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
        context: Any = SimpleNamespace(
            prediction_id=ids[place], caller="me", protocol="oip", trace=(b"", b""),
            started_ns=start_ns + (first + place) * 10**9 - recorder._epoch_ns,
        )  # fmt: skip
        call = Call({name: np.array([value]) for name, value in row.items()}, 1)
        answer = Answer({output: np.array([label])}, by)
        recorder.add(context, call, answer, label_of, 200, 10**6)
    recorder.close()
    return ids


def tell(home: Path, ids: Sequence[str], truths: Sequence[Any], *, model: str = "late") -> None:
    """The truths of these predictions are received now, at once."""
    Outcomes(home).add(model, pa.table({"id": list(ids), "truth": list(truths)}))
