"""ONNX Runtime GenAI in this process: folders of its model builder. One answer at a time."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle.generation.chunks import Chunk, Logprob, Usage, logprob_of, written
from bascule.bundle.generation.requests import (
    SpecialTokens,
    TextRequest,
    conversation,
    room_for,
    telling_refusals,
)
from bascule.bundle.generation.schemas import in_style, refused
from bascule.bundle.generation.specs import Spec
from bascule.core import Invalid, ModelFailed, first_line, library

_PIECE_TOKENS = 32
_TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")
_UNKNOWN = ("frequency_penalty", "presence_penalty", "logit_bias")


class GenaiEngine:
    """See `hosting.Engine`. It has no penalties and no `logit_bias`."""

    def __init__(self, spec: Spec, folder: Path, threads: int) -> None:
        self._library = onnxruntime_genai = library("onnxruntime_genai", "genai")
        self._spec, weights = spec, folder / spec.weights
        options = {"session_options": {"intra_op_num_threads": threads}}
        try:
            config = onnxruntime_genai.Config(str(weights))
            config.overlay(json.dumps({"model": {"decoder": options}}))
            self._model = onnxruntime_genai.Model(config)
            self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        except RuntimeError as problem:
            raise ModelFailed(
                f"the weights cannot be loaded: {first_line(problem)}",
                hint="build the folder again with the model builder of ONNX Runtime GenAI",
            ) from None
        described = json.loads((weights / "genai_config.json").read_text())["model"]
        self._context_tokens = min(spec.context_tokens, int(described["context_length"]))
        listed = weights / "tokenizer.json"
        added = json.loads(listed.read_text())["added_tokens"] if listed.is_file() else ()
        self._specials = SpecialTokens(token["content"] for token in added if token["special"])
        kept = [weights / name for name in _TEMPLATES]
        self._template = spec.template or "".join(
            file.read_text() for file in kept if file.is_file()
        )

    def generate(self, request: TextRequest) -> Iterator[Chunk]:
        """The chunks of an answer; those of the pieces of a prompt have no text."""
        for name in _UNKNOWN:
            if getattr(request, name):
                hint = "leave it out, or pack the model as GGUF"
                raise Invalid(f"{name}: ONNX Runtime GenAI has none", field=name, hint=hint)
        encode = self._tokenizer.encode
        first, *others = self._specials.pieces(self._prompt(request))
        before = len(encode("")) if others else 0  # what it puts before each text
        tokens = np.concatenate([encode(first), *(encode(piece)[before:] for piece in others)])
        most = room_for(request, len(tokens), self._context_tokens)
        generator = self._generator(request, len(tokens) + most)
        for at in range(0, len(tokens), _PIECE_TOKENS):
            generator.append_tokens(tokens[at : at + _PIECE_TOKENS])
            yield Chunk()
        yield from written(
            self._pieces(generator, request), request.stops, most, Usage(len(tokens))
        )

    def _prompt(self, request: TextRequest) -> str:
        if request.prompt is not None:
            return request.prompt
        filled = self._specials.marked(conversation(request, self._spec, self._template))
        with telling_refusals():
            return str(
                self._tokenizer.apply_chat_template(
                    json.dumps(filled["messages"]),
                    template_str=self._spec.template or None,
                    tools=json.dumps(filled["tools"]) if filled["tools"] else None,
                    add_generation_prompt=True,
                )
            )

    def _generator(self, request: TextRequest, most_tokens: int) -> Any:
        params = self._library.GeneratorParams(self._model)
        draws = {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
        seed = secrets.randbits(31) if request.seed is None else request.seed & 0x7FFFFFFF
        params.set_search_options(
            max_length=most_tokens, do_sample=request.temperature > 0, random_seed=seed,
            **(draws if request.temperature > 0 else {}),
        )  # fmt: skip
        if request.schema is not None:
            params.set_guidance("json_schema", in_style(request.schema))
        try:
            return self._library.Generator(self._model, params)
        except RuntimeError as problem:
            if request.schema is None:
                raise
            raise refused(str(problem)) from None

    def _pieces(
        self, generator: Any, request: TextRequest
    ) -> Iterator[tuple[bytes, Logprob | None]]:
        stream, ends = self._tokenizer.create_stream(), {*self._tokenizer.eos_token_ids}
        while not generator.is_done():
            logits = generator.get_logits()[0, -1] if request.others >= 0 else None
            try:
                generator.generate_next_token()
            except RuntimeError as problem:
                if request.schema is None:
                    raise
                raise refused(str(problem)) from None
            token = int(generator.get_next_tokens()[0])
            if token in ends:
                return
            logprob = None
            if logits is not None:
                logprob = logprob_of(logits, token, self._bytes(token), request.others, self._bytes)
            yield stream.decode(token).encode(), logprob

    def _bytes(self, token: int) -> bytes:
        return str(self._tokenizer.decode([token])).encode()
