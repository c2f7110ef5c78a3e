"""Models for tests of text: one that talks by rules, and one that embeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import bascule

TALKER = """
import json
import time
from __main__ import Refused  # what `bascule.Invalid` is where there is no Bascule
from pathlib import Path


def parts_of(request):
    try:
        asked = json.loads(request)
    except ValueError:
        asked = {"prompt": request}
    text = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
    if not isinstance(text, str):
        text = " ".join(part["text"] for part in text)
    if asked.get("temperature", 0) > 2:
        raise Refused("temperature: 3 is over 2")
    command, _, number = text.partition(" ")
    finish, words = "stop", [word + " " for word in text.split()]
    if asked.get("response_format", {}).get("type") in ("json_schema", "json_object"):
        words = ['{"name": ', '"Ada", ', '"age": 36}']
    if asked.get("tools") and asked.get("tool_choice") != "none":
        words, finish = [], "tool_calls"
        for index, tool in enumerate(asked["tools"]):
            head = {"id": f"call_{index}", "type": "function", "index": index}
            name = tool["function"]["name"]
            yield {"tool_calls": [head | {"function": {"name": name, "arguments": ""}}]}
            for piece in ('{"city":', ' "Ulm"}'):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
    if command == "count":
        words = [f"{n} " for n in range(int(number))]
    if command == "long":
        words = ["x" * 65_536] * int(number)
    most = asked.get("max_tokens") or asked.get("max_completion_tokens") or len(words)
    if len(words) > most:
        words, finish = words[:most], "length"
    for place, word in enumerate(words):
        if command == "fail" and place == int(number):
            raise RuntimeError("a secret reason")
        if command == "count":
            time.sleep(0.005)
        token = {"token": word, "bytes": [*word.encode()], "logprob": -0.5, "top_logprobs": []}
        if asked.get("top_logprobs"):
            token["top_logprobs"] = [{"token": word, "bytes": None, "logprob": -0.5}]
        yield {"text": word} | ({"logprobs": [token]} if asked.get("logprobs") else {})
    usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(words)}
    yield {"text": "", "finish": finish, "usage": usage | {"cached_tokens": 1}}


class Talker:
    def predict(self, columns):
        texts, chunks = [], []
        for request in columns["request"]:
            parts = [*parts_of(request)]
            texts.append("".join(part.get("text", "") for part in parts))
            chunks.append(json.dumps(parts[-1] | {"text": texts[-1]}))
        return {"text": texts, "chunk": chunks}

    def predict_stream(self, columns):
        (request,) = columns["request"]
        try:
            for part in parts_of(request):
                chunk = {"text": "", "finish": None} | part
                yield {"text": [chunk["text"]], "chunk": [json.dumps(chunk)]}
        finally:
            Path(CLOSED).write_text(str(time.time()))
"""
EMBEDDER = """
import numpy as np


class Embedder:
    def predict(self, columns):
        texts = [str(text) for text in columns["text"]]
        vectors = [[len(text), text.count("a"), 0.1] for text in texts]
        tokens = np.array([len(text.split()) for text in texts], np.int64)
        return {"embedding": np.array(vectors, np.float32), "tokens": tokens}
"""


def pack_talker(folder: Path, closed: Path, name: str = "talker") -> Path:
    """A model that repeats the last message, word by word; see `parts_of` for what it obeys.

    `closed`: where it writes the time when an answer has ended.
    """
    rows = pd.DataFrame({"request": ["hello there", "fine, thanks"]})
    return _pack(folder, name, "Talker", f"CLOSED = {str(closed)!r}\n{TALKER}", rows)


def pack_embedder(folder: Path, name: str = "embedder") -> Path:
    """A text's vector is its length, its number of `a`, and 0.1; its tokens are its words."""
    rows = pd.DataFrame({"text": ["hello there", "fine, thanks"]})
    return _pack(folder, name, "Embedder", EMBEDDER, rows)


def _pack(folder: Path, name: str, kind: str, code: str, rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind.lower()}_code.py"
    file.write_text(code)
    model = bascule.PythonModel(f"{file.stem}:{kind}", code=file)
    return bascule.pack(model, name=name, train=rows, to=folder / name, measure=False).path
