"""A program as one C99 header: no heap, no files, and of libm what the model computes with.

For trees and linear models with their preprocessing. Sums of trees have the program's bits: they
are made of the leaves whose sums are exact in any order (`packing.compilers.apart`). Other sums are
added from the first to the last, and may differ from ONNX Runtime's in the last bits.

The export is compiled on this machine to be compared: by the compiler in `CC`, or `cc`, or clang.
"""

from __future__ import annotations

import ctypes
import io
import keyword
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bascule.bundle import disk, for_program
from bascule.bundle.programs import MACHINE_CODE, ONNX
from bascule.core import (
    Columns,
    DType,
    Field,
    MissingExtra,
    Scratch,
    Unconvertible,
    first_line,
)
from bascule.runtimes.c_graph import Statements, literal
from bascule.runtimes.program import ExportedProgram, Interface, Runtime, Source

_C = {
    DType.FP64: "double", DType.FP32: "float", DType.INT64: "int64_t", DType.INT32: "int32_t",
    DType.BOOL: "unsigned char", DType.BYTES: "const char *",
}  # fmt: skip
_RESERVED = {
    "auto", "case", "char", "const", "default", "do", "double", "enum", "extern", "float", "goto",
    "inline", "int", "long", "register", "restrict", "short", "signed", "sizeof", "static",
    "struct", "switch", "typedef", "union", "unsigned", "void", "volatile",
}  # fmt: skip
_SHIM = """
#include "{name}.h"
#include <stddef.h>
#include <time.h>
size_t in_bytes(void) {{ return sizeof({name}_input); }}
size_t out_bytes(void) {{ return sizeof({name}_output); }}
void run(const {name}_input *in, {name}_output *out, size_t n) {{
  size_t i;
  for (i = 0; i < n; i++) {name}_predict(in + i, out + i);
}}
void time_rows(const {name}_input *in, {name}_output *out, size_t n, double *us) {{
  size_t i;
  for (i = 0; i < n; i++) {{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    {name}_predict(in + i, out + i);
    clock_gettime(CLOCK_MONOTONIC, &b);
    us[i] = (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3;
  }}
}}
"""
_HEADER = """/* {model}, {digest}. Written by Bascule; do not edit.
   Call {name}_predict with one row. Texts end with NUL; NULL is a missing text. */
#ifndef BASCULE_{upper}_H
#define BASCULE_{upper}_H

{headers}

typedef struct {{
{inputs}
}} {name}_input;

typedef struct {{
{outputs}
}} {name}_output;

static inline void {name}_predict(const {name}_input *in, {name}_output *out) {{
int32_t i, j;
{body}
(void)j;
}}

#endif
"""


def export(source: Source, folder: Path) -> tuple[disk.ProgramEntry, dict[str, Any]]:
    """Write the header; the facts are the bytes of compiled code with its tables, and of stack."""
    entry = source.entry(MACHINE_CODE, ONNX)
    data = source.data(entry)
    if entry.kind == MACHINE_CODE:
        with np.load(io.BytesIO(data), allow_pickle=False) as parts:
            data = parts["whole"].tobytes()
    bundle = source.bundle
    interface = Interface(
        bundle.name, bundle.digest, entry.inputs, bundle.signature.outputs, entry.missing_text
    )
    body = disk.read_file(bundle.path, bundle.manifest, disk.EXAMPLE)
    columns = disk.columns_of(body, bundle.signature.inputs)
    row = for_program({name: column[:1] for name, column in columns.items()}, entry.inputs)
    header = written(onnx.load_from_string(data), interface, row)
    name = c_names([bundle.name])[0]
    (folder / f"{name}.h").write_text(header)
    return entry, _sizes(folder, name)


def written(model: onnx.ModelProto, interface: Interface, row: Columns) -> str:
    """The header of a graph.

    Args:
        model: Its inputs and outputs are those of the interface.
        interface: Of the export.
        row: One row of the inputs, without missing texts filled in.

    Raises:
        Unconvertible: A step or a type has no form in C; the message names it.
    """
    inputs = dict(zip((f.name for f in interface.inputs), c_names(interface.inputs), strict=True))
    used = {n for node in model.graph.node for n in node.input} & set(inputs)
    opening = [
        _input(field, inputs[field.name], f"in{place}", interface.missing_text)
        for place, field in enumerate(interface.inputs)
        if field.name in used
    ]
    arrays = {field.name: f"in{place}" for place, field in enumerate(interface.inputs)}
    filled = {n: np.array([""], object) if row[n].dtype.kind == "O" else row[n] for n in used}
    statements = Statements(model, filled, arrays)
    closing = [
        _output(field, name, statements.names[field.name])
        for field, name in zip(interface.outputs, c_names(interface.outputs), strict=True)
    ]
    name = c_names([interface.model])[0]
    return _HEADER.format(
        model=interface.model,
        digest=interface.digest,
        name=name,
        upper=name.upper(),
        headers="\n".join(f"#include <{header}>" for header in sorted(statements.headers)),
        inputs=_members(interface.inputs),
        outputs=_members(interface.outputs),
        body="\n".join([*opening, *statements.lines, *closing]),
    )


def c_names(names: Sequence[Field | str]) -> list[str]:
    """Names that C takes, each once."""
    taken: list[str] = []
    for place, each in enumerate(names):
        name = re.sub(r"[^A-Za-z0-9_]", "_", each if isinstance(each, str) else each.name)
        if not name[0].isalpha() or name in _RESERVED or keyword.iskeyword(name):
            name = f"x_{name}"
        while name in taken:
            name = f"{name}_{place}"
        taken.append(name)
    return taken


def _members(fields: Sequence[Field]) -> str:
    lines = []
    for field, name in zip(fields, c_names(fields), strict=True):
        if field.dtype not in _C or len(field.shape) > 1 or -1 in field.shape:
            raise Unconvertible(f"{field.name} has no form in C here: {field.dtype} {field.shape}")
        length = f"[{field.shape[0]}]" if field.shape else ""
        lines.append(f"  {_C[field.dtype]} {name}{length};".replace("* ", "*"))
    return "\n".join(lines)


def _input(field: Field, member: str, array: str, missing_text: str | None) -> str:
    value = f"in->{member}" if field.shape else f"&in->{member}"
    if field.dtype is DType.BYTES and not field.shape:
        text = f"in->{member}"
        value = f"{text} ? {text} : {literal(missing_text or '')}"
        return f"const char *{array}[1];\n{array}[0] = {value};"
    return f"const {_C[field.dtype]} *{array} = {value};"


def _output(field: Field, member: str, array: str) -> str:
    if not field.shape:
        return f"out->{member} = {array}[0];"
    return f"for (i = 0; i < {field.shape[0]}; i++) out->{member}[i] = {array}[i];"


def open_header(folder: Path, _tools: Path | None) -> ExportedProgram:
    """The header, compiled here."""
    interface = Interface.read(folder)
    name = c_names([interface.model])[0]
    with Scratch("bascule-c-") as scratch:
        (scratch / "shim.c").write_text(_SHIM.format(name=name))
        _compile(
            "-std=gnu99", "-O2", "-fPIC", "-shared", f"-I{folder.absolute()}",
            "-o", str(scratch / "shim.so"), str(scratch / "shim.c"), "-lm",
        )  # fmt: skip
        library = ctypes.CDLL(str(scratch / "shim.so"))
    takes, gives = (_struct(fields) for fields in (interface.inputs, interface.outputs))
    assert (library.in_bytes(), library.out_bytes()) == (takes.itemsize, gives.itemsize)

    def call(columns: Columns, *more: Any, function: Any) -> NDArray[Any]:
        rows, texts = _rows(columns, interface.inputs, takes)
        answers = np.zeros(len(rows), gives)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (rows, answers))
        function(*pointers, ctypes.c_size_t(len(rows)), *more)
        del texts
        return answers

    def ask(columns: Columns) -> Mapping[str, NDArray[Any]]:
        answers = call(columns, function=library.run)
        return {
            field.name: _texts_at(answers[name]) if field.dtype is DType.BYTES else answers[name]
            for field, name in zip(interface.outputs, gives.names or (), strict=True)
        }

    def time_rows(columns: Columns) -> NDArray[np.float64]:
        took_us = np.zeros(len(next(iter(columns.values()))))
        call(columns, ctypes.c_void_p(took_us.ctypes.data), function=library.time_rows)
        return took_us

    return ExportedProgram("c", interface, ask, time_rows)


def _struct(fields: Sequence[Field]) -> np.dtype[Any]:
    """The rows of a struct in C."""
    kinds = [np.dtype(np.uintp) if f.dtype is DType.BYTES else f.dtype.numpy for f in fields]
    names = c_names(fields)
    return np.dtype(
        [(name, k, f.shape) for name, k, f in zip(names, kinds, fields, strict=True)], align=True
    )


def _rows(
    columns: Columns, fields: Sequence[Field], kind: np.dtype[Any]
) -> tuple[NDArray[Any], list[ctypes.Array[ctypes.c_char]]]:
    """Rows of the struct, and what their texts point to."""
    rows = np.zeros(len(next(iter(columns.values()))), kind)
    buffers = []
    for field, name in zip(fields, kind.names or (), strict=True):
        column = columns[field.name]
        if field.dtype is not DType.BYTES:
            rows[name] = column
            continue
        encoded = [str(text).encode(errors="surrogatepass") + b"\0" for text in column]
        buffer = ctypes.create_string_buffer(b"".join(encoded))
        starts = np.cumsum([0, *map(len, encoded[:-1])])
        rows[name] = ctypes.addressof(buffer) + starts
        buffers.append(buffer)
    return rows, buffers


def _texts_at(pointers: NDArray[Any]) -> NDArray[Any]:
    read = {int(p): (ctypes.string_at(int(p))).decode() for p in np.unique(pointers)}
    return np.array([read[int(p)] for p in pointers], object)


def _sizes(folder: Path, name: str) -> dict[str, Any]:
    """Bytes of code with its constants, and of stack, of the function compiled for size."""
    with Scratch("bascule-c-") as scratch:
        source = scratch / "size.c"
        source.write_text(
            f'#include "{name}.h"\nvoid f(const {name}_input *, {name}_output *);\n'
            f"void f(const {name}_input *in, {name}_output *out) {{ {name}_predict(in, out); }}\n"
        )
        _compile(
            "-std=c99", "-Os", "-fstack-usage", "-c", f"-I{folder.absolute()}",
            "-o", str(scratch / "size.o"), str(source),
        )  # fmt: skip
        sizes = subprocess.run(
            ["size", str(scratch / "size.o")], capture_output=True, text=True, check=True
        )
        stack = (scratch / "size.su").read_text().splitlines()
        text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    return {
        "text_bytes": text,
        "data_bytes": data + bss,
        "stack_bytes": max(int(line.split("\t")[1]) for line in stack),
    }


def _compile(*arguments: str) -> None:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    compiler = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if compiler is None:
        raise MissingExtra(
            "no C compiler is installed, to compare the header with the program",
            hint="install gcc or clang, or name one in CC",
        )
    ended = subprocess.run([compiler, *arguments], capture_output=True, text=True)
    if ended.returncode:
        raise Unconvertible(f"{compiler} refuses the header: {first_line(ended.stderr)}")


C = Runtime(export, open_header)
