"""Bundles that generate text, from a class of Python, and their answers in a ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tests.ledger_rows import table

import bascule
from bascule.monitoring.ledger import write_segment
from bascule.monitoring.ledger.manifest import commit, read_manifest

CODE = """
import json
import numpy as np

ANSWERS = json.loads({answers!r})

class Model:
    def text(self, request):
        for words, answer in ANSWERS.items():
            if words in request:
                return answer
        return request[::-1]

    def predict(self, columns):
        texts = [self.text(request) for request in columns["request"]]
        chunks = [json.dumps({{"text": text, "finish": "stop"}}) for text in texts]
        return {{"text": np.array(texts, object), "chunk": np.array(chunks, object)}}

    def predict_stream(self, columns):
        text = self.text(columns["request"][0])
        for at in range(0, len(text), 4):
            piece = text[at : at + 4]
            finish = "stop" if at + 4 >= len(text) else None
            chunk = json.dumps({{"text": piece, "finish": finish}})
            yield {{"text": np.array([piece], object), "chunk": np.array([chunk], object)}}
"""
REQUESTS = [json.dumps({"messages": [{"role": "user", "content": f"hello {n}"}]}) for n in range(8)]


def chat_bundle(
    folder: Path, name: str, answers: dict[str, str], suite: Sequence[tuple[str, str]] = ()
) -> bascule.Bundle:
    """A model that answers by the first words that a request has; `suite` is held out."""
    folder.mkdir(exist_ok=True)
    (folder / "talking.py").write_text(CODE.format(answers=json.dumps(answers)))
    model = bascule.PythonModel("talking:Model", code=folder / "talking.py")
    return bascule.pack(
        model, name=name, train=pd.DataFrame({"request": REQUESTS}), to=folder / "bundle",
        test=suite_of(suite) if suite else None, measure=False,
    )  # fmt: skip


def suite_of(lines: Sequence[tuple[str, str]]) -> tuple[pd.DataFrame, np.ndarray]:
    prompts, expected = zip(*lines, strict=True)
    return pd.DataFrame({"request": prompts}), np.array(expected, object)


def answered_texts(
    home: Path, ids: Sequence[str], at: Sequence[datetime], texts: Sequence[str], *, arm: str,
    version: str, model: str = "chat",
) -> None:  # fmt: skip
    """Commit a segment of answers, whose texts are kept."""
    made = table(ids, None).drop_columns(["input.x", "output.label"])
    columns = {
        "model": [model] * len(ids), "endpoint": [model] * len(ids), "arm": [arm] * len(ids),
        "version": [version] * len(ids),
        "input.prompt.encrypted": ["hello"] * len(ids), "output.answer.encrypted": list(texts),
    }  # fmt: skip
    for name, values in columns.items():
        if name in made.column_names:
            made = made.drop_columns([name])
        made = made.append_column(name, pa.array(values, pa.string()))
    times = pa.array(at, pa.timestamp("us", "UTC"))
    made = made.set_column(made.column_names.index("time"), "time", times)
    manifest = read_manifest(home)
    day = f"{at[0]:%Y-%m-%d}"
    file = f"{manifest.sequence + 1:08d}-{arm}.parquet"
    manifest.segments.append(write_segment(home, made, model, version, day, file))
    manifest.sequence += 1
    commit(home, manifest)
