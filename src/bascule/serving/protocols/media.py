"""Rows and answers by media type: JSON lines, CSV and NPY, beside the JSON of each protocol.

Shared by `/invocations` and by Vertex AI, whose raw predict hands any body to the container.
"""

from __future__ import annotations

import csv
import io

from bascule.core import Columns, Invalid
from bascule.serving.calls import Call
from bascule.serving.codecs import NPY_TYPE, JsonParser, Table, TableReader, read_npy, write_npy
from bascule.serving.protocols import by_row
from bascule.serving.transports import Exchange

OTHER_TYPES = ("text/csv", NPY_TYPE.decode(), "application/jsonlines")
_LINES_TYPES = (b"application/jsonlines", b"application/jsonl", b"application/x-ndjson")


def read_rows(
    exchange: Exchange, body: bytes, parser: JsonParser, reader: TableReader
) -> Table | None:
    """The rows of a body that is not JSON; None for JSON. Raises `Invalid`."""
    kind = by_row.media_type(exchange)
    if kind == b"text/csv":
        return reader.csv(body, has_header=by_row.has_header(exchange))
    if kind == NPY_TYPE:
        return reader.array(read_npy(body), "npy")
    if kind in _LINES_TYPES:
        lines = [line for line in body.split(b"\n") if line.strip()]
        return reader.rows(parser.plain(b"[%b]" % b",".join(lines)), "lines")
    return None


def answer_form(
    exchange: Exchange, call: Call, place: str, header: bytes = b"accept"
) -> by_row.Form:
    """The form that a request accepts. Raises `Invalid` where it cannot carry the outputs.

    `place` is what the parameters of a request are called, `header` what says the form.
    """
    form = _FORMS.get(by_row.media_type(exchange, header), by_row.PREDICTIONS)
    if form is _NPY and len(call.outputs or ()) > 1:
        raise Invalid(
            f"{place}.outputs: NPY carries one output", hint="ask for one, or accept JSON"
        )
    return form


def _as_csv(outputs: Columns) -> bytes:
    text = io.StringIO()
    columns = [array.reshape(len(array), -1).T.tolist() for array in outputs.values()]
    flat = [values for column in columns for values in column]
    csv.writer(text, lineterminator="\n").writerows(zip(*flat, strict=True))
    return text.getvalue().encode()


def _as_npy(outputs: Columns) -> bytes:
    return write_npy(next(iter(outputs.values())))


def _as_lines(outputs: Columns) -> bytes:
    return b"".join(by_row.encode(row) + b"\n" for row in by_row.by_row(outputs))


_LINES = by_row.Form(_as_lines, b"application/jsonlines")
_CSV = by_row.Form(_as_csv, b"text/csv; charset=utf-8")
_NPY = by_row.Form(_as_npy, NPY_TYPE)
"""The answer proper alone, without outputs that are added by default."""
_FORMS = {b"text/csv": _CSV, NPY_TYPE: _NPY, **dict.fromkeys(_LINES_TYPES, _LINES)}
