"""A program as one C99 header: no heap, no files, and of libm what the model computes with.

For trees and linear models with their preprocessing. Sums of trees have the program's bits: they
are made of the leaves whose sums are exact in any order (`packing.compilers.apart`). Other sums are
added from the first to the last, and may differ from ONNX Runtime's in the last bits.

The export is compiled on this machine to be compared: by the compiler in `CC`, or `cc`.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bascule.bundle import Bundle, disk, for_program
from bascule.bundle.programs import MACHINE_CODE, ONNX
from bascule.core import Columns, DType, Field, MissingExtra, Scratch, first_line
from bascule.runtimes.c_graph import Statements, literal, type_of
from bascule.runtimes.program import Answers, Ask, Interface, Runtime, bytes_of, refused

_RESERVED = re.compile(
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|"
    "inline|int|long|register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|"
    "union|unsigned|void|volatile|while"
)
_HEADER = """/* {model}, {digest}. Written by Bascule; do not edit.
   Call {name}_predict with one row. Texts end with NUL; NULL is a missing text. */
#ifndef BASCULE_{name}_H
#define BASCULE_{name}_H
#include <math.h>
#include <stdint.h>
#include <string.h>
typedef struct {{
{inputs}
}} {name}_input;
typedef struct {{
{outputs}
}} {name}_output;
static inline void {name}_predict(const {name}_input *in, {name}_output *out) {{
int32_t i, j = 0;
{body}
(void)j;
}}
#endif
"""
_CALLED = """#include "{name}.h"
void predict(const {name}_input *, {name}_output *);
void predict(const {name}_input *in, {name}_output *out) {{ {name}_predict(in, out); }}
"""
_TIMED = """#include <time.h>
_Static_assert(sizeof({name}_input) == {in_bytes} && sizeof({name}_output) == {out_bytes}, "");
void run(const {name}_input *in, {name}_output *out, double *us, int64_t n) {{
  for (int64_t i = 0; i < n; i++) {{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    {name}_predict(in + i, out + i);
    clock_gettime(CLOCK_MONOTONIC, &b);
    us[i] = (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3;
  }}
}}
"""


def export(
    bundle: Bundle, entry: disk.ProgramEntry, folder: Path, _tools: Path | None
) -> dict[str, Any]:
    """Write the header; the facts are bytes of code with its tables, and of stack."""
    data = bytes_of(bundle, entry.file)
    if entry.kind == MACHINE_CODE:
        with np.load(io.BytesIO(data), allow_pickle=False) as parts:
            data = parts["whole"].tobytes()
    name = _name(bundle.name)
    (folder / f"{name}.h").write_text(_header(bundle, entry, onnx.load_from_string(data)))
    with Scratch("bascule-c-") as scratch:
        (scratch / "size.c").write_text(_CALLED.format(name=name))
        _compile(scratch / "size.c", scratch / "size.o", folder, "-Os", "-fstack-usage", "-c")
        sizes = subprocess.run(["size", scratch / "size.o"], capture_output=True, check=True)
        stack = (scratch / "size.su").read_text().splitlines()
    stack_bytes = max(int(line.split("\t")[1]) for line in stack)
    return {"code_bytes": sum(map(int, sizes.stdout.split()[6:9])), "stack_bytes": stack_bytes}


def _header(bundle: Bundle, entry: disk.ProgramEntry, model: onnx.ModelProto) -> str:
    inputs, outputs = entry.inputs, bundle.signature.outputs
    used = {name for node in model.graph.node for name in node.input}
    arrays = {field.name: f"in{place}" for place, field in enumerate(inputs) if field.name in used}
    example = disk.columns_of(bytes_of(bundle, disk.EXAMPLE), bundle.signature.inputs)
    row = for_program({name: column[:1] for name, column in example.items()}, inputs)
    row = {n: np.array([""], object) if row[n].dtype == object else row[n] for n in arrays}
    statements = Statements(model, row, arrays)
    opening = [
        _input(field, name, arrays[field.name], entry.missing_text or "")
        for field, name in zip(inputs, c_names(inputs), strict=True)
        if field.name in arrays
    ]
    closing = [
        _output(field, name, statements.array_of(field.name))
        for field, name in zip(outputs, c_names(outputs), strict=True)
    ]
    return _HEADER.format(
        model=bundle.name, digest=bundle.digest, name=_name(bundle.name),
        inputs=_members(inputs), outputs=_members(outputs),
        body="\n".join([*opening, *statements.lines, *closing]),
    )  # fmt: skip


def c_names(fields: Sequence[Field]) -> list[str]:
    """Names that C takes, each once."""
    taken: list[str] = []
    for place, field in enumerate(fields):
        name = re.sub(r"[^A-Za-z0-9_]", "_", field.name)
        if not name[:1].isalpha() or _RESERVED.fullmatch(name):
            name = f"x_{name}"
        while name in taken:
            name = f"{name}_{place}"
        taken.append(name)
    return taken


def _name(model: str) -> str:
    return c_names([Field(model, DType.FP64)])[0]


def _members(fields: Sequence[Field]) -> str:
    lines = []
    for field, name in zip(fields, c_names(fields), strict=True):
        if len(field.shape) > (field.dtype is not DType.BYTES) or -1 in field.shape:
            raise refused(f"{field.name} has no form in C here: its shape is {field.shape}")
        length = f"[{field.shape[0]}]" if field.shape else ""
        lines.append(f"  {type_of(np.empty(0, field.dtype.numpy))}{name}{length};")
    return "\n".join(lines)


def _input(field: Field, member: str, array: str, missing_text: str) -> str:
    kind = type_of(np.empty(0, field.dtype.numpy))
    if field.dtype is DType.BYTES:
        text = f"in->{member} ? in->{member} : {literal(missing_text)}"
        return f"{kind}{array}[1];\n{array}[0] = {text};"
    return f"const {kind}*{array} = {'' if field.shape else '&'}in->{member};"


def _output(field: Field, member: str, array: str) -> str:
    if field.shape:
        return f"for (i = 0; i < {field.shape[0]}; i++) out->{member}[i] = {array}[i];"
    return f"out->{member} = {array}[0];"


def open_header(folder: Path, interface: Interface, _tools: Path | None) -> Ask:
    """The header, compiled here."""
    name = _name(interface.model)
    takes, gives = (_struct(fields) for fields in (interface.inputs, interface.outputs))
    with Scratch("bascule-c-") as scratch:
        timed = (_CALLED + _TIMED).format(
            name=name, in_bytes=takes.itemsize, out_bytes=gives.itemsize
        )
        (scratch / "timed.c").write_text(timed)
        _compile(scratch / "timed.c", scratch / "timed.so", folder, "-O2", "-fPIC", "-shared")
        library = ctypes.CDLL(str(scratch / "timed.so"))

    def ask(columns: Columns) -> Answers:
        rows, texts = _rows(columns, interface.inputs, takes)
        answers, us = np.zeros(len(rows), gives), np.zeros(len(rows))
        arrays = (ctypes.c_void_p(array.ctypes.data) for array in (rows, answers, us))
        library.run(*arrays, ctypes.c_int64(len(rows)))
        del texts  # which the rows point to
        outputs = zip(interface.outputs, gives.names or (), strict=True)
        return {
            field.name: _texts(answers[name]) if field.dtype is DType.BYTES else answers[name]
            for field, name in outputs
        }, us

    return ask


def _struct(fields: Sequence[Field]) -> np.dtype[Any]:
    """The rows of a struct in C; a text is its address."""
    kinds = [np.uintp if field.dtype is DType.BYTES else field.dtype.numpy for field in fields]
    shapes = [field.shape for field in fields]
    return np.dtype(list(zip(c_names(fields), kinds, shapes, strict=True)), align=True)


def _rows(
    columns: Columns, fields: Sequence[Field], kind: np.dtype[Any]
) -> tuple[NDArray[Any], list[Any]]:
    """Rows of the struct, and what their texts point to."""
    rows, buffers = np.zeros(len(next(iter(columns.values()))), kind), []
    for field, name in zip(fields, kind.names or (), strict=True):
        values = columns[field.name]
        if field.dtype is DType.BYTES:
            encoded = [str(text).encode() + b"\0" for text in values]
            buffers.append(ctypes.create_string_buffer(b"".join(encoded)))
            values = ctypes.addressof(buffers[-1]) + np.cumsum([0, *map(len, encoded[:-1])])
        rows[name] = values
    return rows, buffers


def _texts(addresses: NDArray[Any]) -> NDArray[Any]:
    texts = {address: ctypes.string_at(address).decode() for address in set(addresses.tolist())}
    return np.array([texts[address] for address in addresses.tolist()], object)


def _compile(source: Path, to: Path, folder: Path, *options: str) -> None:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or shutil.which("size") is None:
        raise MissingExtra(
            "no C compiler is installed, to compare the header with the program",
            hint="install gcc or clang, or name one in CC",
        )
    command = [
        compiler,
        "-std=gnu11",
        *options,
        f"-I{folder.absolute()}",
        "-o",
        str(to),
        str(source),
        "-lm",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise refused(f"{compiler} refuses the header: {first_line(ended.stderr)}")


C = Runtime(export, open_header, (MACHINE_CODE, ONNX))
