"""llama.cpp in this process, by `llama-cpp-python`: one answer at a time.

A prompt is computed in short pieces, and a piece without text follows each, so that an answer
ends soon when its caller has gone. What the prompt has in common with the last one is not computed
again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateSyntaxError
from numpy.typing import NDArray

from bascule.bundle.generation.chunks import Chunk, Logprob, Usage, logprob_of, written
from bascule.bundle.generation.requests import (
    SpecialTokens,
    TextRequest,
    conversation,
    room_for,
    telling_refusals,
)
from bascule.bundle.generation.schemas import SchemaMask, llama_tokenizer
from bascule.bundle.generation.specs import Spec
from bascule.core import Invalid, ModelFailed, first_line, library

_TEMPLATE = "tokenizer.chat_template"
_BATCH_TOKENS, _PIECE_TOKENS, _LEAST_LAST = 512, 32, 2
"""A piece of a prompt is as fast as a batch of the usual size, and done soon."""


class LlamaEngine:
    """See `hosting.Engine`."""

    def __init__(self, spec: Spec, folder: Path, threads: int) -> None:
        self._library = llama_cpp = library("llama_cpp", "llama")
        self._spec = spec
        self._tokenizer: Any = None
        adapter = str(folder / spec.adapter) if spec.adapter else None
        try:
            self._llama = llama_cpp.Llama(
                str(folder / spec.weights), n_ctx=spec.context_tokens, n_threads=threads,
                n_threads_batch=threads, n_batch=_BATCH_TOKENS, lora_path=adapter, verbose=False,
            )  # fmt: skip
            self._template = spec.template or self._llama.metadata.get(_TEMPLATE, "")
            self._formatter = self._formatter_of(self._template) if self._template else None
        except TemplateSyntaxError as problem:  # llama.cpp reads the template of the weights first
            is_own = problem.source == spec.template
            raise ModelFailed(
                f"{'template' if is_own else f'{_TEMPLATE} of the weights'}, line "
                f"{problem.lineno}: {problem.message}",
                hint="correct the chat template",
            ) from None
        except (ValueError, RuntimeError, OSError) as problem:
            raise ModelFailed(
                f"llama.cpp cannot load the weights: {first_line(problem)}",
                hint="check the file; a newer llama-cpp-python may know its architecture",
            ) from None
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._llama.model)
        self._specials = SpecialTokens(
            self._special(token)
            for token in range(self._llama.n_vocab())
            if llama_cpp.llama_vocab_is_control(self._vocabulary, token)
        )
        self._prompt_tokens = 0

    def _formatter_of(self, template: str) -> Any:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        return Jinja2ChatFormatter(
            template=template,
            eos_token=self._special(self._llama.token_eos()),
            bos_token=self._special(self._llama.token_bos()),
        )

    def generate(self, request: TextRequest) -> Iterator[Chunk]:
        """The chunks of an answer; those of the pieces of a prompt have no text."""
        llama, tokens = self._llama, self._tokens(request)
        most = room_for(request, len(tokens), llama.n_ctx())
        mask, logits = self._mask(request), list[NDArray[np.float32]]()
        processors = self._processors(request, mask, logits)
        cached = yield from self._prepare(tokens)
        seed = self._library.LLAMA_DEFAULT_SEED if request.seed is None else request.seed
        llama.set_seed(seed & 0xFFFFFFFF)

        def pieces() -> Iterator[tuple[bytes, Logprob | None]]:
            penalties = request.frequency_penalty, request.presence_penalty
            for token in llama.generate(
                tokens, top_k=0, top_p=request.top_p, min_p=0.0, temp=request.temperature,
                frequency_penalty=penalties[0], presence_penalty=penalties[1],
                logits_processor=processors,
            ):  # fmt: skip
                self._prompt_tokens = len(tokens)
                if mask is not None:
                    mask.add(token)
                if self._library.llama_vocab_is_eog(self._vocabulary, token):
                    return
                data, logprob = llama.detokenize([token], prev_tokens=tokens[-1:]), None
                if request.others >= 0:
                    logprob = logprob_of(logits.pop(), token, data, request.others, self._bytes)
                yield data, logprob

        yield from written(pieces(), request.stops, most, Usage(len(tokens), 0, cached))

    def score(self, text: str, context: str) -> tuple[float, int, bool]:
        """See `hosting.Engine`; tokens and windows are those of lm-eval.

        Spaces that end a context belong to the text; without one it follows the first token.
        """
        llama, most, before = self._llama, self._llama.n_ctx(), context.rstrip()
        tokens = llama.tokenize((context + text).encode(), add_bos=True, special=True)
        first = len(llama.tokenize(before.encode(), add_bos=True, special=True)) if before else 0
        opening = llama.token_bos() if llama.token_bos() >= 0 else llama.token_eos()
        if not first and tokens[:1] != [opening]:
            tokens.insert(0, opening)
        if first and len(tokens) - 1 > most:
            reason = f"a context with its text has {len(tokens):,} tokens; {most + 1:,} may be"
            raise Invalid(reason, hint="pack the model with more context_tokens")
        first, total, is_greedy = max(first, 1), 0.0, True
        for place in range(first, len(tokens), most):
            end = min(place + most, len(tokens))
            begin = max(end - most - 1, 0)
            for logits, token in self._seen(tokens[begin:end], place - begin):
                is_greedy &= bool(logits.argmax() == token)
                logits -= logits.max()
                total += float(logits[token] - np.log(np.exp(logits).sum()))
        return total, len(tokens) - first, is_greedy

    def _seen(self, tokens: list[int], first: int) -> Iterator[tuple[NDArray[np.float64], int]]:
        """The tokens from place `first` on, each with the logits that the others give there."""
        llama = self._llama
        llama.reset()
        llama._ctx.kv_cache_seq_rm(-1, 0, -1)
        for begin in range(0, len(tokens) - 1, _BATCH_TOKENS):
            piece = tokens[begin : min(begin + _BATCH_TOKENS, len(tokens) - 1)]
            llama._batch.set_batch(batch=piece, n_past=begin, logits_all=True)
            llama._ctx.decode(llama._batch)
            logits = np.ctypeslib.as_array(llama._ctx.get_logits(), (len(piece), llama.n_vocab()))
            for place in range(max(first - 1 - begin, 0), len(piece)):
                yield logits[place].astype(np.float64), tokens[begin + place + 1]

    def _prepare(self, tokens: list[int]) -> Generator[Chunk, None, int]:
        """Compute a prompt but for its last piece; gives how many tokens were known before.

        Kernels for one token round otherwise than those for several. So that a prompt has the same
        logits after any earlier request, all its pieces have two tokens or more, and tokens of
        earlier answers are computed again.
        """
        llama = self._llama
        known = llama.input_ids[: min(self._prompt_tokens, llama.n_tokens)]
        most = min(len(known), max(len(tokens) - _LEAST_LAST, 0))
        equal = np.asarray(tokens[:most]) == known[:most]
        at = most if equal.all() else int(equal.argmin())
        if at < llama.n_tokens and not llama._ctx.kv_cache_seq_rm(-1, at, -1):
            llama.reset()  # a recurrent model cannot forget a part
            at = 0
        cached = self._prompt_tokens = llama.n_tokens = at
        while (left := len(tokens) - at) > _PIECE_TOKENS:
            piece = tokens[at : at + min(_PIECE_TOKENS, left - _LEAST_LAST)]
            llama.eval(piece)
            self._prompt_tokens = at = at + len(piece)
            yield Chunk()
        return cached

    def _tokens(self, request: TextRequest) -> list[int]:
        llama = self._llama
        if request.prompt is not None:
            prompt = request.prompt.encode()
            return list(llama.tokenize(prompt, add_bos=True, special=True))
        if self._formatter is None:
            raise Invalid(
                "messages: the model has no chat template",
                hint="ask for completions of a prompt, or pack it with a template",
                field="messages",
            )
        with telling_refusals():
            filled = self._specials.marked(conversation(request, self._spec, self._template))
            pieces = self._specials.pieces(self._formatter(**filled).prompt)
        return [
            token
            for piece in pieces
            for token in llama.tokenize(piece.encode(), add_bos=False, special=True)
        ]

    def _mask(self, request: TextRequest) -> SchemaMask | None:
        if (schema := request.schema) is None:
            return None
        if self._tokenizer is None:
            is_end, count = self._library.llama_vocab_is_eog, self._llama.n_vocab()
            ends = [token for token in range(count) if is_end(self._vocabulary, token)]
            self._tokenizer = llama_tokenizer(self._vocabulary, ends)
        return SchemaMask(self._tokenizer, schema)

    def _processors(
        self, request: TextRequest, mask: SchemaMask | None, kept: list[NDArray[np.float32]]
    ) -> Any:
        """What changes the logits before a token is drawn; None for nothing.

        Called through C, where an exception would be lost: so everything is checked before.
        """
        bias = {int(token): change for token, change in (request.logit_bias or {}).items()}
        if bias and max(bias) >= (count := self._llama.n_vocab()):
            hint = "name tokens of this model's vocabulary"
            reason = f"logit_bias: the model has {count:,} tokens"
            raise Invalid(reason, field="logit_bias", hint=hint)

        def look(_: NDArray[np.intc], logits: NDArray[np.float32]) -> NDArray[np.float32]:
            if request.others >= 0:
                kept[:] = [np.array(logits)]
            for token, change in bias.items():
                logits[token] += change
            if mask is not None:
                mask.apply(logits)
            return logits

        if request.others < 0 and not bias and mask is None:
            return None
        return self._library.LogitsProcessorList([look])

    def _bytes(self, token: int) -> bytes:
        return bytes(self._llama.detokenize([token]))

    def _special(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._llama.detokenize([token], special=True).decode(errors="replace"))
