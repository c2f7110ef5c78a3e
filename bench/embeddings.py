"""Texts a second of a packed embedding, and of a bare session of ONNX Runtime.

    python -m bench.embeddings BUNDLE [--texts 256] [--rounds 7]

Texts have 1 to 256 tokens, drawn evenly. The program cuts them into tokens, makes batches and runs
them; the bare session is given arrays that are ready: of the texts sorted by length, padded, in
batches of the one size that is best for it. Both take turns, on one thread each, and CPU time is
compared, which other processes of the machine change less; the ratio is the median of the rounds.
Bar: 0.9.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

import bascule
from bascule.bundle.disk import read_file
from bascule.bundle.programs import METADATA, TOKENS

_SIZES = (1, 2, 4, 8, 16, 32)
_WORDS = ("the", "late", "flight", "closed", "gate", "never", "in", "time", "again", "nice")
_BAR = 0.9


def texts_of(count: int, longest: int) -> list[str]:
    """Texts with evenly drawn numbers of words, each of which is a token."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest + 1, count)
    return [" ".join(random.choice(_WORDS, length)) for length in lengths]


def bare_batches(encoded: list[Any], names: Iterable[str], size: int) -> list[dict[str, Any]]:
    """The inputs of a bare session: neighbours in length, padded to the longest of a batch."""
    ordered = sorted(encoded, key=lambda row: len(row.ids))
    batches = []
    for start in range(0, len(ordered), size):
        rows = ordered[start : start + size]
        width = max(len(row.ids) for row in rows)
        batches.append(
            {
                name: np.array(
                    [getattr(row, TOKENS[name]) + [0] * (width - len(row.ids)) for row in rows],
                    np.int64,
                )
                for name in names
            }
        )
    return batches


def took_s(call: Callable[[], Any]) -> float:
    start_s = time.process_time()
    call()
    return time.process_time() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    bundle = bascule.load(options.bundle)
    (field,) = bundle.signature.inputs
    program = bundle.program()
    entry = bundle.manifest.served
    assert entry is not None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    data = read_file(bundle.path, bundle.manifest, entry.file)
    session = onnxruntime.InferenceSession(data, settings)
    held = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    tokenizer = Tokenizer.from_str(held["tokenizer"])
    tokenizer.no_padding()
    texts = texts_of(options.texts, (tokenizer.truncation or {})["max_length"] - 2)
    encoded = [tokenizer.encode(text) for text in texts]
    names = [node.name for node in session.get_inputs()]
    columns = {field.name: np.array(texts, object)}

    def bare(size: int) -> Callable[[], Any]:
        batches = bare_batches(encoded, names, size)
        return lambda: [session.run(None, batch) for batch in batches]

    ways = {size: bare(size) for size in _SIZES}
    program.run(columns)
    best = min(ways, key=lambda size: took_s(ways[size]))
    rounds = []
    for place in range(options.rounds):
        calls = {"ours": lambda: program.run(columns), "bare": ways[best]}
        order = sorted(calls, reverse=bool(place % 2))  # neither is always the first
        rounds.append({name: took_s(calls[name]) for name in order})
    ratio = statistics.median(each["bare"] / each["ours"] for each in rounds)
    rates = {
        name: len(texts) / statistics.median(each[name] for each in rounds) for name in rounds[0]
    }
    print(json.dumps({"ratio": ratio, "bar": _BAR, "texts_per_s": rates, "bare_batch": best}))


if __name__ == "__main__":
    main()
