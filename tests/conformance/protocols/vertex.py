"""Requests as Vertex AI passes them on."""

from __future__ import annotations

from conformance_protocol import Form, by_row, of_json

PATH = "/vertex/predict"


def read(answer, names):
    return by_row(answer.json["predictions"], names)


def everything(rows):
    return {"parameters": {"outputs": [field.name for field in rows.signature.outputs]}}


FORMS = {
    "rows": Form(lambda rows: of_json(PATH, {"instances": rows.values}), read),
    "records": Form(
        lambda rows: of_json(PATH, {"instances": rows.records, **everything(rows)}), read
    ),
}
