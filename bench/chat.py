"""A chat model behind the server beside its engine alone.

    python -m bench.chat MODEL.gguf
    python -m bench.chat --upstream http://localhost:8000/v1 --model NAME

Sixteen users ask at once over the OpenAI API, in streams, with temperature 0. The engine alone is
fed the same requests in one process, first in, first out, with the same threads; a server that
answers for the model is asked by the same users without us between. Rounds alternate.
Bars: the same texts; at least .95 of the engine's tokens a second; the first token of each user
after at most 1.1 times as long; a turn is free 0.2 s after its user has gone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import llama_cpp
import openai

import bascule

TOPICS = (
    "rivers", "bread", "clocks", "bees", "chess", "glass", "wind", "maps", "salt", "trains", "ink",
    "moss", "kites", "bridges", "tea", "snow",
)  # fmt: skip
CONTEXT_TOKENS, ANSWER_TOKENS = 2_048, 48


class Round(NamedTuple):
    """What one round gave; times in seconds from the moment at which all ask."""

    texts: list[str]
    firsts_s: list[float]
    tokens: int
    took_s: float

    @property
    def rate_hz(self) -> float:
        """Tokens a second."""
        return self.tokens / self.took_s


def messages(topic: str) -> list[Any]:
    return [{"role": "user", "content": f"Tell me three things about {topic}, in short."}]


def count_tokens(model: llama_cpp.Llama, text: str) -> int:
    return len(model.tokenize(text.encode(), add_bos=False))


def alone(model: llama_cpp.Llama) -> Round:
    """The engine in this process."""
    began, firsts_s, texts, tokens = time.perf_counter(), [], [], 0
    for topic in TOPICS:
        text, is_first = "", True
        chunks: Any = model.create_chat_completion(
            messages(topic), max_tokens=ANSWER_TOKENS, temperature=0, stream=True
        )
        for chunk in chunks:
            piece = chunk["choices"][0]["delta"].get("content", "")
            if piece and is_first:
                firsts_s.append(time.perf_counter() - began)
                is_first = False
            text += piece
        texts.append(text)
        tokens += count_tokens(model, text)
    return Round(texts, firsts_s, tokens, time.perf_counter() - began)


def served(
    client: openai.OpenAI, model: str = "chat", count: Callable[[str], int] | None = None
) -> Round:
    """All users at once; each asks 5 ms after the one before, so that their order is known.

    `count` counts tokens; without, those that the server says it has generated.
    """
    texts, firsts_s, tokens = [""] * len(TOPICS), [0.0] * len(TOPICS), [0] * len(TOPICS)
    began = time.perf_counter()

    def ask(place: int) -> None:
        time.sleep(0.005 * place)
        stream = client.chat.completions.create(
            model=model, messages=messages(TOPICS[place]), stream=True, temperature=0,
            max_tokens=ANSWER_TOKENS, stream_options={"include_usage": True},
        )  # fmt: skip
        for chunk in stream:
            piece = chunk.choices[0].delta.content if chunk.choices else ""
            if piece:
                firsts_s[place] = firsts_s[place] or time.perf_counter() - began
                texts[place] += piece
            tokens[place] += chunk.usage.completion_tokens if chunk.usage else 0

    users = [threading.Thread(target=ask, args=(place,)) for place in range(len(TOPICS))]
    for user in users:
        user.start()
    for user in users:
        user.join()
    took_s = time.perf_counter() - began
    return Round(texts, firsts_s, sum(map(count, texts) if count else tokens), took_s)


def freed_s(client: openai.OpenAI) -> float:
    """From the moment at which a user goes to the first token of the next, less one asked alone."""

    def first_s(topic: str) -> float:
        began = time.perf_counter()
        with client.chat.completions.create(
            model="chat", messages=messages(topic), stream=True, temperature=0, max_tokens=2
        ) as stream:
            list(stream)
        return time.perf_counter() - began

    plain_s = statistics.median(first_s(topic) for topic in TOPICS[:4])
    stream = client.chat.completions.create(
        model="chat", messages=messages("everything"), stream=True, max_tokens=900
    )
    with stream:
        next(iter(stream))
    return first_s(TOPICS[5]) - plain_s


@contextmanager
def behind(model: bascule.TextGeneration) -> Iterator[openai.OpenAI]:
    """A client of our server with the model."""
    with TemporaryDirectory() as folder:
        bundle = bascule.pack(model, name="chat", to=Path(folder) / "chat", measure=False)
        with bascule.serve(bundle, workers=1) as server:
            yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", timeout=300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="?", help="a model in GGUF")
    parser.add_argument("--upstream", help="in place of weights: the URL of a server")
    parser.add_argument("--model", help="of that server")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bare: Callable[[], Round]
    count = None
    if options.upstream:
        os.environ["BASCULE_UPSTREAMS"] = json.dumps({options.upstream: ""})
        model = bascule.TextGeneration(upstream=options.upstream, model=options.model)
        direct = openai.OpenAI(base_url=options.upstream, api_key="-", timeout=300)
        bare = partial(served, direct, options.model)
        bare()
    else:
        model = bascule.TextGeneration(options.weights, context_tokens=CONTEXT_TOKENS)
        engine = llama_cpp.Llama(
            str(options.weights), n_ctx=CONTEXT_TOKENS, n_threads=1, n_threads_batch=1,
            verbose=False,
        )  # fmt: skip
        bare, count = partial(alone, engine), partial(count_tokens, engine)
    with behind(model) as client:
        served(client)
        pairs = []
        for place in range(options.rounds):
            calls = [bare, partial(served, client, count=count)]
            rounds = [call() for call in (calls[::-1] if place % 2 else calls)]
            pairs.append(rounds[::-1] if place % 2 else rounds)
        gone_s = [freed_s(client) for _ in range(options.rounds)]
    same = sum(a == b for bare, ours in pairs for a, b in zip(bare.texts, ours.texts, strict=True))
    rates = [ours.rate_hz / bare.rate_hz for bare, ours in pairs]
    firsts = [
        our_s / bare_s
        for bare, ours in pairs
        for bare_s, our_s in zip(bare.firsts_s, ours.firsts_s, strict=True)
    ]
    free_ms = [1e3 * seconds for seconds in gone_s]
    print(f"the same texts: {same} of {len(firsts)}")
    print(f"tokens a second, of the engine's: {_spread(rates)}")
    print(f"first token, times the engine's: {_spread(firsts)}")
    print(f"a turn is free after, ms: {_spread(free_ms)}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
