"""Requests as MLflow's clients and SageMaker make them."""

from __future__ import annotations

import csv
import io
import json

from conformance_protocol import Form, Request, by_row, of_json

PATH = "/invocations"


def split(rows):
    return {"columns": list(rows.names), "data": rows.values}


def params(rows):
    return {"params": {"outputs": [field.name for field in rows.signature.outputs]}}


def in_csv(rows, *, header, path=PATH):
    text = io.StringIO()
    lines = [["" if value is None else value for value in row] for row in rows.values]
    csv.writer(text).writerows([rows.names, *lines] if header else lines)
    kind = "text/csv" if header else "text/csv; header=absent"
    return Request(path, text.getvalue().encode(), (f"Content-Type: {kind}",))


def in_lines(rows, *headers):
    body = b"".join(json.dumps(row).encode() + b"\n" for row in rows.values)
    return Request(PATH, body, ("Content-Type: application/jsonlines", *headers))


def read_lines(answer, names):
    return by_row([json.loads(line) for line in answer.body.splitlines()], names)


def read(answer, names):
    return by_row(answer.json["predictions"], names)


def everything(ask):
    """The form, with all outputs asked for."""
    return Form(lambda rows: of_json(PATH, {**ask(rows), **params(rows)}), read)


def only_the_answer(ask):
    return Form(lambda rows: of_json(PATH, ask(rows)), read)


FORMS = {
    "endpoint": Form(
        lambda rows: of_json("/endpoints/m/invocations", {"instances": rows.records}), read
    ),
    "databricks": Form(
        lambda rows: of_json("/serving-endpoints/m/invocations", {"dataframe_split": split(rows)}),
        read,
    ),
    "split": everything(lambda rows: {"dataframe_split": split(rows)}),
    "split-index": only_the_answer(
        lambda rows: {"dataframe_split": {**split(rows), "index": list(range(len(rows.values)))}}
    ),
    "records": everything(lambda rows: {"dataframe_records": rows.records}),
    "instances": everything(lambda rows: {"instances": rows.values}),
    "instances-columns": everything(lambda rows: {"instances": rows.by_input}),
    "inputs": everything(lambda rows: {"inputs": rows.by_input}),
    "csv": Form(lambda rows: in_csv(rows, header=True), read),
    "csv-no-header": Form(lambda rows: in_csv(rows, header=False), read),
    "lines": Form(in_lines, read),
    "lines-answered": Form(
        lambda rows: in_lines(rows, "Accept: application/jsonlines"), read_lines
    ),
    "bare": only_the_answer(lambda rows: rows.values),
    "multi-model": Form(
        lambda rows: of_json("/models/m/invoke", {"instances": rows.records, **params(rows)}),
        read,
    ),
}
