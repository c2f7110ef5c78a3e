"""What a bundle says of a model that writes texts: engine, weights, template, defaults. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from bascule.core import Untrusted

FORMAT = "generation"
FILE = "original/generation.json"
ENGINES = {
    "llama.cpp": "bascule.bundle.generation.llama:LlamaEngine",
    "genai": "bascule.bundle.generation.genai:GenaiEngine",
    "upstream": "bascule.bundle.generation.upstream:UpstreamEngine",
}
"""By name: what answers. All but `upstream` run in a process of their own."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `FILE` of a bundle.

    Attributes:
        engine: Of `ENGINES`.
        weights: The file with the weights, or for `genai` the folder, in the bundle.
        adapter: The file with a LoRA adapter over the weights; empty without one.
        template: The chat template (Jinja); empty for that in the weights.
        system: The system message of requests without one.
        defaults: Values of the fields of a request that it does not give.
        context_tokens: The most of a prompt with its answer.
        memory_bytes: The most that the engine's process may have; 0 without a bound.
        licence: Of the weights, as SPDX names it.
        upstream: The address of an OpenAI-compatible server, up to and with `/v1`. Servers ask it
            only where their setting `upstreams` names it too.
        model: What the upstream calls the model.
        extra: Further fields of each request to the upstream.
        timeout_s: How long the upstream may take to its next piece.
    """

    engine: Literal["llama.cpp", "genai", "upstream"]
    weights: str = ""
    adapter: str = ""
    template: str = ""
    system: str = ""
    defaults: dict[str, Any] = {}
    context_tokens: Annotated[int, msgspec.Meta(ge=16, le=1 << 22)] = 4_096
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    licence: str = ""
    upstream: str = ""
    model: str = ""
    extra: dict[str, Any] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 60.0


def spec_of(data: bytes) -> Spec:
    """Raises `Untrusted` where a bundle's file is none."""
    try:
        return msgspec.json.decode(data, type=Spec)
    except (msgspec.DecodeError, RecursionError) as problem:
        hint = "pack the model again"
        raise Untrusted(f"{FILE} cannot be read: {problem}", file=FILE, hint=hint) from None
