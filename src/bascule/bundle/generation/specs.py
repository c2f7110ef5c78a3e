"""What a bundle says of a model that writes texts: engine, weights, template, defaults. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from bascule.core import Untrusted

FILE = "original/generation.json"
ENGINES = {
    "llama.cpp": "bascule.bundle.generation.llama:LlamaEngine",
    "genai": "bascule.bundle.generation.genai:GenaiEngine",
}
"""By name: what answers in a process of its own; `upstream` is asked from the caller's."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `FILE` of a bundle; other fields are as in `packing.flavors.generation`.

    Attributes:
        engine: Of `ENGINES`, or `upstream`.
        weights: The file with the weights, or for `genai` the folder, in the bundle.
        adapter: The file with a LoRA adapter over the weights, in the bundle.
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
