"""Pipelines of Hugging Face's transformers on texts, or the folder of a saved model.

`bundle.originals.pipelines` says what is kept and what a pipeline answers. Nothing is compiled: the
pipeline itself answers, in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bascule.bundle.originals import installed_version, is_of, pipelines
from bascule.core import (
    BasculeError,
    DType,
    Field,
    Invalid,
    Scratch,
    Signature,
    Unconvertible,
    Untrusted,
    first_line,
    is_there,
)
from bascule.packing.compilers import tokenized
from bascule.packing.flavors.networks import check_saved
from bascule.packing.flavors.own_code import to_archive
from bascule.packing.flavors.tabular import fields_of, read_inputs, read_truth, rows_of
from bascule.packing.imported import Compilation, ImportedModel

_TRIED_ROWS = 16
_REQUIRED = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
_ONE_FILE = "100GB"
_OF_THIS_MACHINE = frozenset(
    (
        "_commit_hash", "_name_or_path", "is_local", "local_files_only", "name_or_path",
        "special_tokens_map_file", "tokenizer_file",
    )
)  # fmt: skip
"""Where the parts came from: the same pipeline from elsewhere has the same bytes."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_OWN_CODE = "pack it as a bascule.PythonModel, which runs your own code"
_TASKS = {"probabilities": "classification", "prediction": "regression"}


class Transformers:
    """See `packing.imported.Flavor`."""

    name = "transformers"

    def recognises(self, model: Any) -> bool:
        if isinstance(model, str | Path):
            folder = Path(model)  # of texts with a graph, the flavor `onnx` reads
            is_ours = is_there(folder / "config.json", Path.is_file)
            return is_ours and not tokenized.is_text_folder(folder)
        return is_of(model, "transformers") and hasattr(model, "postprocess")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        pipeline = _pipeline_in(Path(model)) if isinstance(model, str | Path) else model
        if pipeline.task not in pipelines.MODELS:
            raise Invalid(
                f"a pipeline for {pipeline.task} is not known",
                hint=f"known are {' and '.join(pipelines.MODELS)}; or {_OWN_CODE}",
            )
        table = read_inputs(train, "train")
        truth = read_truth(train, "train", rows=table.rows)
        inputs = fields_of(table)
        if [field.dtype for field in inputs] != [DType.BYTES]:
            raise Invalid(
                f"train has {', '.join(field.name for field in inputs)}, and a pipeline takes one "
                "column of texts",
                hint="pass a list of texts, or a table with that column alone",
                field="train",
            )
        rows = rows_of(table, truth, Signature(inputs, ()))
        answers = pipelines.answers_of(
            pipeline, rows.columns[inputs[0].name][:_TRIED_ROWS].tolist()
        )
        outputs = tuple(
            Field(name, DType.BYTES if values.dtype == object else DType.FP32, values.shape[1:])
            for name, values in answers.items()
        )
        signature, held_out = Signature(inputs, outputs), None
        if test is not None:
            tested = read_inputs(test, "test")
            held_out = rows_of(tested, read_truth(test, "test", rows=tested.rows), signature)
        frame = {"task": pipeline.task, "call": pipelines.call_of(pipeline)}
        saved = _saved(pipeline)
        try:
            again = pipelines.load_pipeline(saved, frame)
        except Untrusted as problem:
            raise Invalid(f"the pipeline cannot be kept: {problem}", hint=_OWN_CODE) from problem
        live, served = (pipelines.TextPipeline(each, inputs, outputs) for each in (pipeline, again))
        check_saved(served, live, rows)
        weights = sum(each.numel() for each in pipeline.model.parameters())
        is_classifier = "probabilities" in answers
        return ImportedModel(
            task=next((_TASKS[name] for name in answers if name in _TASKS), "other"),
            classes=tuple(pipelines.labels_of(pipeline)) if is_classifier else None,
            signature=signature,
            original=live,
            saved=saved,
            saved_file=pipelines.FILE,
            saved_format=pipelines.FORMAT,
            requires={name: installed_version(name) for name in _REQUIRED},
            frame=frame,
            train=rows,
            test=held_out,
            parameters={"model": type(pipeline.model).__name__, "parameters": str(weights)},
            reopened=served,
            is_network=True,
        )

    def compilations(self, _model: Any, _subject: ImportedModel) -> Iterator[Compilation]:
        raise Unconvertible("a pipeline of transformers is not compiled")


def _pipeline_in(folder: Path) -> Any:
    """The pipeline of a folder that `save_pretrained` has written: what its configuration says."""
    if not any(folder.glob("*.safetensors")):
        pickles = [file.name for kind in _PICKLES for file in sorted(folder.glob(kind))]
        raise Invalid(
            f"{folder} has no weights as safetensors"
            + (f"; {pickles[0]} may run code when it is loaded" if pickles else ""),
            hint="load the model where you trust it, and save it again: "
            "model.save_pretrained(FOLDER), which writes safetensors",
        )
    try:
        names = json.loads((folder / "config.json").read_bytes()).get("architectures") or [""]
        is_classifier = str(names[0]).endswith("ForSequenceClassification")
        task = "text-classification" if is_classifier else "feature-extraction"
        return pipelines.pipeline_in(folder, task, {})
    except BasculeError:
        raise
    except Exception as problem:  # the readers of transformers may raise anything
        raise Invalid(
            f"{folder} cannot be read as a model of transformers: {first_line(problem)}",
            hint="save model and tokenizer there: pipe.save_pretrained(FOLDER); code beside the "
            "weights (trust_remote_code) is never run",
        ) from problem


def _saved(pipeline: Any) -> bytes:
    """The bytes of a pipeline, the same ones wherever it is saved: an archive of its files."""
    with Scratch() as folder, pipelines.quietly():
        try:
            pipeline.model.save_pretrained(folder, max_shard_size=_ONE_FILE)
            pipeline.tokenizer.save_pretrained(folder)
        except Exception as problem:  # as above
            raise Invalid(
                f"the pipeline cannot be saved: {first_line(problem)}", hint=_OWN_CODE
            ) from problem
        files = {name: folder / name for name in pipelines.MEMBERS}
        parts = {name: file.read_bytes() for name, file in files.items() if file.exists()}
    for name in {"config.json", "tokenizer_config.json"} & {*parts}:
        config = json.loads(parts[name])
        kept = {key: value for key, value in config.items() if key not in _OF_THIS_MACHINE}
        parts[name] = json.dumps(kept, sort_keys=True).encode()
    return to_archive(parts)
