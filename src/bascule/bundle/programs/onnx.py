"""Runs a compiled program in ONNX Runtime. The hot path of the server: no checks are made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bascule.bundle.programs.guard import check_graph
from bascule.bundle.programs.texts import TextProgram
from bascule.bundle.programs.tokenized import TokenizedProgram, texts_of
from bascule.bundle.texts import Texts
from bascule.core import (
    Columns,
    DType,
    Field,
    Invalid,
    ModelFailed,
    Program,
    TimedOut,
    Untrusted,
    first_line,
)

_TYPES = {
    "tensor(bool)": DType.BOOL,
    "tensor(float16)": DType.FP16,
    "tensor(float)": DType.FP32,
    "tensor(double)": DType.FP64,
    "tensor(string)": DType.BYTES,
    **{f"tensor({dtype.value.lower()})": dtype for dtype in DType if dtype.is_integer},
}
_CPU = "CPUExecutionProvider"
_COMPILED = frozenset(("label", "prediction", "probabilities", "score"))
"""Outputs of the graphs that are compiled here, which have an answer for each row."""


def obstacle() -> str:
    """What to do so that it runs here: nothing, for ONNX Runtime comes with Bascule."""
    return ""


class OnnxProgram(Program):
    """A compiled program in a session of its own.

    Sessions are safe to run from many threads. A missing text (None, or NaN) is replaced by the
    text that stands for it inside the program, in the columns where it may be missing.
    """

    __slots__ = (
        "_all", "_is_counted", "_missing_text", "_nullable_text", "_options", "_run", "inputs",
        "name", "outputs",
    )  # fmt: skip

    def __init__(
        self,
        session: Any,
        *,
        name: str,
        inputs: tuple[Field, ...],
        outputs: tuple[Field, ...],
        missing_text: str | None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        # What the session's own `run` adds is checks that have been made and a fall-back between
        # devices that are not there: a tenth of the cost of a small model.
        self._run = session._sess.run
        self._options = _new_options()
        self._all = [field.name for field in outputs]
        self._is_counted = any(one.partition(".")[0] not in _COMPILED for one in self._all)
        self._missing_text = missing_text
        self._nullable_text = nullable_text(inputs) if missing_text is not None else ()

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for, in that order; see `core.programs.Program`."""
        names = self._all if outputs is None else list(outputs)
        if self._nullable_text:
            columns = without_missing_text(columns, self._nullable_text, self._missing_text)
        options = self._options
        try:
            answers = self._run(names, columns, options)
        except UnicodeEncodeError as problem:
            half = problem.object[problem.start]
            raise Invalid(f"a text holds {half!r}, half of a surrogate pair") from None
        except Exception as problem:
            if options.terminate:
                raise TimedOut(f"a run of program {self.name} took too long") from None
            raise ModelFailed(f"program {self.name} failed: {first_line(problem)}") from problem
        if self._is_counted:
            rows = len(next(iter(columns.values())))
            for name, values in zip(names, answers, strict=True):
                if values.shape[:1] != (rows,):
                    raise ModelFailed(
                        f"program {self.name} failed: {name} has the shape {list(values.shape)} "
                        f"for {rows} rows"
                    )
        return dict(zip(names, answers, strict=True))

    def interrupt(self) -> None:
        """End the runs that are under way, between two nodes of the graph. From any thread."""
        options, self._options = self._options, _new_options()
        options.terminate = True


def _new_options() -> Any:
    import onnxruntime

    return onnxruntime.RunOptions()


def nullable_text(inputs: Sequence[Field]) -> tuple[str, ...]:
    """The names of the inputs where a text may be missing."""
    return tuple(field.name for field in inputs if field.nullable and field.dtype is DType.BYTES)


def without_missing_text(
    columns: Columns, names: Sequence[str], missing_text: str | None
) -> Columns:
    """The columns with what stands for a missing text inside a program in place of None and NaN."""
    filled = dict(columns)
    for name in names:
        column = columns[name]
        values = column.tolist()
        if missing_text in values:
            row = values.index(missing_text)
            raise Invalid(
                f"{name}: the text in row {row} is reserved for a missing one inside a program",
                hint="leave the text missing (null), or send another one",
                field=name,
                row=row,
            )
        missing = [value is None or value != value for value in values]
        if any(missing):
            column = column.copy()
            column[missing] = missing_text
            filled[name] = column
    return filled


def open_onnx(
    data: bytes,
    *,
    name: str,
    file: str,
    inputs: tuple[Field, ...],
    outputs: tuple[Field, ...],
    missing_text: str | None = None,
    texts: Texts | None = None,
    threads: int = 1,
    providers: Sequence[str] = (),
) -> Program:
    """A program from the bytes of an ONNX file that has been verified.

    `providers`: see `open_session`.

    Raises:
        Untrusted: The graph holds what `guard` refuses, the runtime cannot load it, or its
            inputs and outputs are not those that the manifest declares.
    """
    session = open_session(data, file, threads=threads, providers=providers)
    if (carried := texts_of(session, file)) is not None:
        program = _tokenized(session, name, *carried)
        if (program.inputs, program.outputs) != (inputs, outputs):
            said = f"{file} has other inputs or outputs than are declared"
            raise Untrusted(said, hint="pack it again", file=file)
        return program
    extra = () if texts is None else tuple(one.field for one in texts.prepared)
    match(session.get_inputs(), (*inputs, *extra), f"an input of {file}")
    match(session.get_outputs(), outputs, f"an output of {file}")
    program = OnnxProgram(
        session, name=name, inputs=inputs, outputs=outputs, missing_text=missing_text
    )
    if texts is None:
        return program
    if not {one.column for one in texts.prepared} <= {
        field.name for field in inputs if field.dtype is DType.BYTES
    }:
        raise Untrusted(f"{file} is given texts that are prepared from no column of texts")
    return TextProgram(program, texts)


def open_tokenized(data: bytes, file: str, *, threads: int = 1) -> Program | None:
    """A graph that carries its tokenizer, with the inputs and outputs that it has; else None.

    Raises:
        Untrusted, MissingExtra: As `open_onnx`.
    """
    session = open_session(data, file, threads=threads)
    carried = texts_of(session, file)
    return None if carried is None else _tokenized(session, "original", *carried)


def _tokenized(session: Any, name: str, columns: tuple[str, ...], tokenizer: Any) -> Program:
    inner = OnnxProgram(
        session,
        name=name,
        inputs=tuple(map(field_of, session.get_inputs())),
        outputs=tuple(map(field_of, session.get_outputs())),
        missing_text=None,
    )
    return TokenizedProgram(inner, tokenizer, columns)


def check_providers(names: Sequence[str]) -> None:
    """Raise `Invalid` where ONNX Runtime as it is installed here has not all of the providers."""
    if not names:
        return
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for name in names:
        if name not in there:
            raise Invalid(
                f"serving.providers: {name!r} is not there",
                hint=f"ONNX Runtime {onnxruntime.__version__} here has {', '.join(there)}; other "
                "providers come with other builds of it, such as onnxruntime-openvino",
                field="serving.providers",
            )


def open_session(data: bytes, file: str, *, threads: int = 1, providers: Sequence[str] = ()) -> Any:
    """A session for the graph's bytes.

    Args:
        data: The graph.
        file: Its name, for messages.
        threads: How many it may use.
        providers: Execution providers in the order of preference. The processor runs the nodes
            that none of them takes, and all nodes where none is named.

    Raises:
        Untrusted: The graph holds what `guard` refuses, or the runtime cannot load it.
        Invalid: A provider does not start here; the runtime alone would go on without it.
    """
    may_fold = check_graph(data, file)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            data,
            options,
            providers=[
                (name, _options_of(name, threads)) for name in dict.fromkeys((*providers, _CPU))
            ],
            disabled_optimizers=None if may_fold else ["ConstantFolding"],
        )
    except Exception as problem:
        raise Untrusted(
            f"{file} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: "
            f"{first_line(problem)}",
            file=file,
        ) from problem
    lacking = sorted({*providers} - {*session.get_providers()})
    if lacking:
        raise Invalid(
            f"{lacking[0]} does not start here",
            hint="its libraries or its device are missing; take it out of serving.providers",
        )
    return session


def _options_of(provider: str, threads: int) -> dict[str, str]:
    """OpenVINO would take all cores, and compute in halves on processors that are fast at them."""
    if provider == "OpenVINOExecutionProvider":
        return {"num_of_threads": str(threads), "precision": "FP32"}
    return {}


def field_of(node: Any) -> Field:
    """The field that a session's input or output is; the rows are its first dimension."""
    shape = tuple(length if isinstance(length, int) else -1 for length in node.shape[1:])
    return Field(node.name, _TYPES[node.type], shape)


def is_known_type(node: Any) -> bool:
    return node.type in _TYPES


def match(nodes: Sequence[Any], fields: tuple[Field, ...], what: str) -> None:
    """Raise `Untrusted` where a graph's inputs or outputs are not those that are declared."""
    found = {node.name: node for node in nodes}
    for field in fields:
        node = found.pop(field.name, None)
        if node is None or _TYPES.get(node.type) is not field.dtype:
            raise Untrusted(
                f"{field.name} is declared as {what} of type {field.dtype}, and the graph has "
                f"{'none' if node is None else node.type}"
            )
    if found and "input" in what:
        raise Untrusted(f"{sorted(found)[0]} is {what} that the manifest does not declare")
