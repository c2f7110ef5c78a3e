"""A text pipeline of Hugging Face's transformers: configuration, tokenizer, weights, and no code.

The archive holds JSON and one file of safetensors. Transformers' own reader builds the model that
the configuration names; before it is asked, here, the configuration may name nothing that brings
code or fetches any. Nothing is downloaded.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle.disk import Manifest
from bascule.core import (
    BasculeError,
    Columns,
    Field,
    Invalid,
    ModelFailed,
    Program,
    Scratch,
    Untrusted,
    first_line,
    library,
)

FORMAT = "transformers"
FILE = "original/pipeline.zip"
MEMBERS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MODELS = {
    "text-classification": "AutoModelForSequenceClassification",
    "feature-extraction": "AutoModel",
}
"""By task: the class that opens the model."""
_FETCHING = frozenset(
    {
        # Code beside the weights, and kernels that are fetched from a hub.
        "auto_map", "custom_pipelines", "quantization_config", "attn_implementation",
        "_attn_implementation", "_experts_implementation", "use_kernels", "backbone",
        "use_pretrained_backbone",
    }
)  # fmt: skip
_CALL = frozenset(
    ("add_special_tokens", "function_to_apply", "max_length", "padding", "stride", "truncation")
)
_ANY_LENGTH = 10**9


class TextPipeline(Program):
    """A pipeline as a program: one column of texts in; see `answers_of`."""

    name = "original"

    def __init__(
        self, pipeline: Any, inputs: tuple[Field, ...], outputs: tuple[Field, ...]
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._pipeline = pipeline

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        (texts,) = columns.values()
        try:
            answers = answers_of(self._pipeline, texts.tolist())
        except Invalid:
            raise
        except Exception as problem:  # a library may raise anything
            raise ModelFailed(f"the pipeline failed: {first_line(problem)}") from problem
        return answers if outputs is None else {name: answers[name] for name in outputs}


def open_pipeline(data: bytes, manifest: Manifest, *, threads: int = 1) -> TextPipeline:
    """The saved original of a bundle; the threads of PyTorch are those of its process."""
    del threads
    signature = manifest.signature
    return TextPipeline(reopen(data, manifest), signature.inputs, signature.outputs)


def reopen(data: bytes, manifest: Manifest) -> Any:
    """The pipeline itself; raises `Untrusted` as every opener of an original does."""
    return load_pipeline(data, manifest.original.frame)


def load_pipeline(data: bytes, frame: Mapping[str, Any]) -> Any:
    """The pipeline in an archive, for the `task` of a frame and with the arguments of its `call`.

    Raises:
        Untrusted: The archive holds anything else than `MEMBERS`, or what could bring code.
        MissingExtra: transformers is not installed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if sorted(archive.namelist()) != sorted(MEMBERS):
                raise ValueError(f"it has not the files {', '.join(MEMBERS)} alone")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise ValueError("it is compressed, which no model of a bundle is")
            parts = {name: archive.read(name) for name in entries}
        with Scratch() as folder:
            for name, content in parts.items():
                (folder / name).write_bytes(content)
            return pipeline_in(folder, str(frame["task"]), frame["call"])
    except BasculeError:
        raise
    except Exception as problem:  # the readers of transformers may raise anything
        raise Untrusted(f"{FILE} cannot be read: {first_line(problem)}", file=FILE) from problem


def pipeline_in(folder: Path, task: str, call: Mapping[str, Any]) -> Any:
    """The pipeline of a folder with saved files, on the CPU.

    Raises:
        MissingExtra: transformers is not installed.
        ValueError: A configuration or an argument could bring code or fetch any.
        Exception: What transformers raises.
    """
    transformers = library("transformers", "transformers")
    if not _CALL.issuperset(call):
        raise ValueError(f"arguments are kept that are none of {', '.join(sorted(_CALL))}")
    for file in folder.glob("*config.json"):
        _check_config(json.loads(file.read_bytes()), file.name)
    only = {"local_files_only": True, "trust_remote_code": False}
    opened = getattr(transformers, MODELS[task]).from_pretrained
    with quietly():
        model = opened(folder, use_safetensors=True, dtype="auto", **only).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **only)
        return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **call)


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars of transformers."""
    logging = library("transformers", "transformers").utils.logging
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _check_config(value: Any, name: str) -> None:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            fetching = sorted(key for key in _FETCHING & {*part} if part[key] is not None)
            if fetching:
                raise ValueError(f"{name} has {fetching[0]}, which may run code of others")
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def answers_of(pipeline: Any, texts: list[str]) -> Columns:
    """What a pipeline answers, each text on its own, so that no answer depends on the others.

    Returns:
        Of a classifier `label` and `probabilities`, shape (texts, labels), in the order of the
        configuration; `scores` in their place where they do not add up to 1; `prediction` of a
        model with one number. Of a feature extractor `embedding`: the mean over the tokens.

    Raises:
        Invalid: A text has more tokens than the model takes, and the pipeline does not truncate.
    """
    _check_lengths(pipeline, texts)
    if pipeline.task == "feature-extraction":
        means = [np.mean(np.asarray(pipeline(text)[0], np.float32), axis=0) for text in texts]
        return {"embedding": np.stack(means)}
    labels = labels_of(pipeline)
    rows = [{each["label"]: each["score"] for each in pipeline(text, top_k=None)} for text in texts]
    scores = np.array([[row[label] for label in labels] for row in rows], np.float32)
    if len(labels) == 1:
        return {"prediction": scores[:, 0]}
    chosen = np.array(labels, object)[scores.argmax(axis=1)]
    return {"label": chosen, "probabilities" if _is_softmax(pipeline) else "scores": scores}


def call_of(pipeline: Any) -> dict[str, Any]:
    """The arguments of a pipeline that change its answers, as JSON: how it cuts and scores."""
    call = dict(pipeline._preprocess_params)
    function = pipeline._postprocess_params.get("function_to_apply")
    if function is not None:
        call["function_to_apply"] = getattr(function, "value", function)
    return dict(json.loads(json.dumps(call, default=str)))


def labels_of(pipeline: Any) -> list[str]:
    """The labels of a classifier, in the order of its outputs."""
    names = pipeline.model.config.id2label
    return [str(names[place]) for place in range(len(names))]


def _is_softmax(pipeline: Any) -> bool:
    is_of_one = pipeline.model.config.problem_type != "multi_label_classification"
    return bool(call_of(pipeline).get("function_to_apply", "softmax") == "softmax" and is_of_one)


def _check_lengths(pipeline: Any, texts: list[str]) -> None:
    positions = getattr(pipeline.model.config, "max_position_embeddings", None) or _ANY_LENGTH
    most = min(int(positions), int(pipeline.tokenizer.model_max_length))
    if most >= _ANY_LENGTH or pipeline._preprocess_params.get("truncation"):
        return
    lengths = [len(tokens) for tokens in pipeline.tokenizer(texts, verbose=False)["input_ids"]]
    if max(lengths) > most:
        row = lengths.index(max(lengths))
        raise Invalid(
            f"the text in row {row} has {lengths[row]:,} tokens, and the model takes {most:,}",
            hint="send a shorter text, or pack the pipeline with truncation=True",
            row=row,
        )
