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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bascule.bundle import Bundle, disk
from bascule.bundle.programs import MACHINE_CODE
from bascule.core import Columns, DType, Field, Scratch
from bascule.runtimes.c_graph import Expressions, Statements, literal, type_of
from bascule.runtimes.tools import Answers, Ask, bytes_of, refused, run_tool

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
{body}
}}
#endif
"""
_CALLED = """#include "{name}.h"
void predict(const {name}_input *, {name}_output *);
void predict(const {name}_input *in, {name}_output *out) {{ {name}_predict(in, out); }}
"""
_TIMED = """#include "{name}.h"
#include <time.h>
#define AT(place, member) ((char *)columns[place] + (uint64_t)i * sizeof member)
void run(void **columns, double *us, int64_t rows) {{
  for (int64_t i = 0; i < rows; i++) {{
    {name}_input in;
    {name}_output out;
    struct timespec a, b;
    {taken}
    clock_gettime(CLOCK_MONOTONIC, &a);
    {name}_predict(&in, &out);
    clock_gettime(CLOCK_MONOTONIC, &b);
    us[i] = (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3;
    {handed}
  }}
}}
"""


def to_c(
    bundle: Bundle, entry: disk.ProgramEntry, folder: Path, _tools: Path | None
) -> tuple[Ask, dict[str, Any]]:
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
        sizes = run_tool(["size", str(scratch / "size.o")], "install binutils").split()
        stack = (scratch / "size.su").read_text().splitlines()
    stack_bytes = max(int(line.split("\t")[1]) for line in stack)
    facts = {"code_bytes": sum(map(int, sizes[6:9])), "stack_bytes": stack_bytes}
    return asked(bundle, entry, folder), facts


def _header(bundle: Bundle, entry: disk.ProgramEntry, model: onnx.ModelProto) -> str:
    inputs, outputs = entry.inputs, bundle.signature.outputs
    members, results = _members(inputs), _members(outputs)  # first: they refuse other shapes
    used = {name for node in model.graph.node for name in node.input}
    read = [field for field in inputs if field.name in used]
    row = {field.name: _empty(field, 1) for field in read}
    places, opening = _places("in", inputs), []
    for number, field in enumerate(field for field in read if field.dtype is DType.BYTES):
        (place,), name = places[field.name], f"text{number}"
        missing = literal(entry.missing_text or "")
        opening.append(f"const char *const {name} = {place} ? {place} : {missing};")
        places[field.name] = np.array([name], object)
    statements = Statements(model, row, {field.name: places[field.name] for field in read})
    closing = [
        f"{place} = {value};"
        for name, places_out in _places("out", outputs).items()
        for place, value in zip(places_out.ravel(), statements.tensor(name).ravel(), strict=True)
    ]
    return _HEADER.format(
        model=bundle.name, digest=bundle.digest, name=_name(bundle.name), inputs=members,
        outputs=results, body="\n".join([*opening, *statements.lines, *closing]),
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


def _empty(field: Field, rows: int) -> NDArray[Any]:
    return np.full((rows, *field.shape), "" if field.dtype is DType.BYTES else 0, field.dtype.numpy)


def _members(fields: Sequence[Field]) -> str:
    lines = []
    for field, name in zip(fields, c_names(fields), strict=True):
        if len(field.shape) > (field.dtype is not DType.BYTES) or -1 in field.shape:
            raise refused(f"{field.name} has no form in C here: its shape is {field.shape}")
        length = f"[{field.shape[0]}]" if field.shape else ""
        lines.append(f"  {type_of(_empty(field, 0))}{name}{length};")
    return "\n".join(lines)


def _places(struct: str, fields: Sequence[Field]) -> dict[str, Expressions]:
    """C for each value of a row in a struct, by field."""
    places = {}
    for field, name in zip(fields, c_names(fields), strict=True):
        ends = [f"[{place}]" for place in range(field.shape[0])] if field.shape else [""]
        texts = np.array([f"{struct}->{name}{end}" for end in ends], object)
        places[field.name] = texts.reshape(1, *field.shape)
    return places


def asked(bundle: Bundle, entry: disk.ProgramEntry, folder: Path) -> Ask:
    """Asks the header in this folder, compiled here."""
    name, inputs, outputs = _name(bundle.name), entry.inputs, bundle.signature.outputs
    taken = [
        f"memcpy(&in.{member}, AT({place}, in.{member}), sizeof in.{member});"
        for place, member in enumerate(c_names(inputs))
    ]
    handed = [
        f"memcpy(AT({place}, out.{member}), &out.{member}, sizeof out.{member});"
        for place, member in enumerate(c_names(outputs), len(inputs))
    ]
    with Scratch("bascule-c-") as scratch:
        timed = _TIMED.format(name=name, taken="\n".join(taken), handed="\n".join(handed))
        (scratch / "timed.c").write_text(timed)
        _compile(scratch / "timed.c", scratch / "timed.so", folder, "-O2", "-fPIC", "-shared")
        library = ctypes.CDLL(str(scratch / "timed.so"))

    def ask(columns: Columns) -> Answers:
        rows = len(columns[inputs[0].name])
        taken = [_addressed(columns[field.name], entry.missing_text) for field in inputs]
        handed = [_addressed(_empty(field, rows), None) for field in outputs]
        us = np.zeros(rows)
        addresses = [column.ctypes.data for column in (*taken, *handed)]
        library.run(
            (ctypes.c_void_p * len(addresses))(*addresses), ctypes.c_void_p(us.ctypes.data),
            ctypes.c_int64(rows),
        )  # fmt: skip
        answers = zip(outputs, handed, strict=True)
        return {
            field.name: _texts(column) if field.dtype is DType.BYTES else column
            for field, column in answers
        }, us

    return ask


def _addressed(values: NDArray[Any], missing_text: str | None) -> NDArray[Any]:
    """The values in one piece; of texts, their addresses, and NULL for a missing one."""
    if values.dtype != object:
        return np.ascontiguousarray(values)
    octets = (None if text in (None, missing_text) else str(text).encode() for text in values)
    texts: Any = (ctypes.c_char_p * len(values))(*octets)
    addresses: NDArray[Any] = np.frombuffer(texts, np.uintp)
    return addresses


def _texts(addresses: NDArray[Any]) -> NDArray[Any]:
    return np.array([ctypes.string_at(address).decode() for address in addresses.tolist()], object)


def _compile(source: Path, to: Path, folder: Path, *options: str) -> None:
    command = [os.environ.get("CC") or "cc", "-std=gnu11", *options, f"-I{folder.absolute()}"]
    run_tool([*command, "-o", str(to), str(source), "-lm"], "install gcc, or name it in CC")
