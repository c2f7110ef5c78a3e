"""Requests as clients of TensorFlow Serving's REST API make them."""

from __future__ import annotations

import base64

from conformance_protocol import Form, by_row, of_json

PATH = "/v1/models/m:predict"


def instances(rows):
    return rows.values if rows.signature.is_matrix else rows.records


def in_base64(rows):
    def packed(value):
        if not isinstance(value, str):
            return value
        return {"b64": base64.b64encode(value.encode()).decode()}

    return [{name: packed(value) for name, value in record.items()} for record in rows.records]


def read_columns(answer, names):
    return answer.json["outputs"]


def read_rows(answer, names):
    return by_row(answer.json["predictions"], names)


FORMS = {
    "rows": Form(lambda rows: of_json(PATH, {"instances": instances(rows)}), read_rows),
    "signature": Form(
        lambda rows: of_json(
            "/v1/models/m/versions/1:predict",
            {"signature_name": "serving_default", "instances": instances(rows)},
        ),
        read_rows,
    ),
    "b64": Form(lambda rows: of_json(PATH, {"instances": in_base64(rows)}), read_rows),
    "columns": Form(lambda rows: of_json(PATH, {"inputs": rows.by_input}), read_columns),
}
