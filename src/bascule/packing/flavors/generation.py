"""Models that write texts: weights with an engine, or a server elsewhere. Nothing is compiled.

`bundle.generation` says what is kept and what answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bascule.bundle.disk import GENERATION, Manifest, check_file
from bascule.bundle.generation import (
    EXAMPLE,
    FILE,
    INPUTS,
    OUTPUTS,
    Spec,
    check_defaults,
    open_generation,
    spec_of,
)
from bascule.bundle.originals import installed_version
from bascule.core import (
    Columns,
    Invalid,
    Program,
    Scratch,
    Signature,
    Unconvertible,
    canonical_json,
)
from bascule.packing.imported import Compilation, ImportedModel

_WEIGHTS, _ADAPTER, _FOLDER = "original/weights.gguf", "original/adapter.gguf", "original/weights"
_GGUF = b"GGUF"
_PROMPT = '{"max_tokens":8,"prompt":"Hello"}'
_REQUIRED = {"llama.cpp": ("llama-cpp-python",), "genai": ("onnxruntime-genai",), "upstream": ()}
_PICKLES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))


@dataclass(frozen=True)
class TextGeneration:
    """A model that writes texts, asked by the OpenAI API or with the column `request`.

    Attributes:
        weights: A GGUF file, answered by llama.cpp; or a folder that ONNX Runtime GenAI's builder
            wrote. Empty where `upstream` answers.
        adapter: A LoRA adapter over the weights, as GGUF.
        template: A chat template (Jinja); that of the weights if empty.
        system: The system message of requests without one.
        defaults: Values of the fields of requests that do not give them: `{"max_tokens": 256}`.
        context_tokens: The most of a prompt with its answer.
        memory_bytes: The most that the engine's process may have; 0 without a bound.
        licence: Of the weights, as SPDX names it.
        upstream: The address of an OpenAI-compatible server, as `http://vllm:8000/v1`; a server
            asks it where its setting `upstreams` names it too.
        model: What the upstream calls the model.
        extra: Further fields of each request to the upstream: `{"repetition_penalty": 1.1}`.
        timeout_s: How long the upstream may take to its next piece.
    """

    weights: str | Path = ""
    adapter: str | Path = ""
    template: str = ""
    system: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    context_tokens: int = 4_096
    memory_bytes: int = 0
    licence: str = ""
    upstream: str = ""
    model: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 60.0


class Generation:
    """See `packing.imported.Flavor`."""

    name = GENERATION

    def recognises(self, model: Any) -> bool:
        return isinstance(model, TextGeneration) or _is_gguf(model) or _is_genai(model)

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        if train is not None or test is not None:
            raise Invalid(
                "a model that writes texts is packed without rows",
                hint="leave train and test out; suites of prompts are given to bascule check",
                field="train",
            )
        if not isinstance(model, TextGeneration):
            model = TextGeneration(model)
        spec, files = _spec(model)
        check_defaults(spec)
        saved = canonical_json(msgspec.to_builtins(spec))
        original = _opened(saved, files)
        return ImportedModel(
            task=GENERATION,
            signature=Signature(INPUTS, OUTPUTS),
            original=original,
            saved=saved,
            saved_file=FILE,
            saved_format=GENERATION,
            files=files,
            requires={name: installed_version(name) for name in _REQUIRED[spec.engine]},
            train=None,
            test=None,
            example=_example(original, spec),
            parameters={"engine": spec.engine, "licence": spec.licence or "not known"},
        )

    def compilations(self, _model: Any, _subject: ImportedModel) -> Iterator[Compilation]:
        raise Unconvertible("a model that writes texts is not compiled", hint="its engine answers")


def _example(model: Program, spec: Spec) -> Columns:
    """A request that the model answers: it is asked, so that no bundle is made that fails at all.

    Weights without a chat template continue prompts alone.
    """
    for request in (EXAMPLE, _PROMPT):
        columns: Columns = {"request": np.array([request], object)}
        try:
            model.run(columns)
        except Invalid as refused:
            if request == _PROMPT or spec.template:
                raise Invalid(refused.message, hint=refused.hint, field="template") from None
        else:
            return columns
    raise AssertionError("the prompt was answered or refused")


def reopen(data: bytes, manifest: Manifest, path: Path) -> TextGeneration:
    """The model of a bundle at `path`, as it was handed to `pack`."""
    for name in manifest.files:
        if name.startswith("original/"):
            check_file(path, manifest, name)
    kept = msgspec.structs.asdict(spec_of(data))
    del kept["engine"]
    for name in ("weights", "adapter"):
        kept[name] = path / kept[name] if kept[name] else ""
    return TextGeneration(**kept)


def _opened(saved: bytes, files: Mapping[str, Path]) -> Program:
    """The model before it is sealed: the same files, by links."""
    scratch = Scratch("bascule-generation-")
    for name, file in files.items():
        place = scratch.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())
    (scratch.path / FILE).parent.mkdir(exist_ok=True)
    (scratch.path / FILE).write_bytes(saved)
    program = open_generation(scratch.path, None)
    program.files = scratch  # type: ignore[attr-defined]  # as long as its process may start again
    return program


def _spec(model: TextGeneration) -> tuple[Spec, dict[str, Path]]:
    """What is kept of the model, and its files by their names in a bundle."""
    weights, adapter = Path(model.weights), Path(model.adapter)
    files: dict[str, Path] = {}
    engine = "upstream"
    if bool(model.upstream) == bool(model.weights):
        raise Invalid(
            "a model has either weights or an upstream", hint="pass one of them", field="weights"
        )
    if model.upstream:
        _check_upstream(model)
    elif _is_gguf(weights):
        engine, files[_WEIGHTS] = "llama.cpp", weights
    elif _is_genai(weights):
        engine = "genai"
        files |= {f"{_FOLDER}/{file.name}": file for file in sorted(weights.iterdir())}
        for file in files.values():
            if file.suffix.lower() in _PICKLES or not file.is_file():
                raise Invalid(
                    f"weights: {file.name} is a folder, or may run code when it is read",
                    hint="keep the builder's files alone in the folder",
                )
    else:
        raise Invalid(
            f"weights: {weights} is neither a GGUF file nor a folder with genai_config.json",
            hint="convert them with llama.cpp's convert_hf_to_gguf.py",
            field="weights",
        )
    if model.adapter:
        if engine != "llama.cpp" or not _is_gguf(adapter):
            hint = "convert it with llama.cpp's convert_lora_to_gguf.py"
            raise Invalid(
                "adapter: a GGUF file over weights of llama.cpp", field="adapter", hint=hint
            )
        files[_ADAPTER] = adapter
    fields = {
        **vars(model), "engine": engine, "adapter": _ADAPTER if model.adapter else "",
        "weights": {"llama.cpp": _WEIGHTS, "genai": _FOLDER}.get(engine, ""),
        "defaults": dict(model.defaults), "extra": dict(model.extra),
    }  # fmt: skip
    try:
        return msgspec.convert(fields, Spec), files
    except msgspec.ValidationError as problem:
        field = str(problem).rpartition("$.")[2].rstrip("`")
        hint = "see the fields of bascule.TextGeneration"
        raise Invalid(str(problem), field=field, hint=hint) from None


def _check_upstream(model: TextGeneration) -> None:
    if not model.upstream.startswith(("http://", "https://")) or not model.model:
        raise Invalid(
            "upstream: an address and the name of a model there are needed",
            hint='TextGeneration(upstream="http://localhost:8000/v1", model="NAME")',
            field="upstream",
        )


def _is_gguf(path: Any) -> bool:
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(len(_GGUF)) == _GGUF


def _is_genai(path: Any) -> bool:
    return isinstance(path, str | Path) and (Path(path) / "genai_config.json").is_file()
