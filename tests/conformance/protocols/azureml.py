"""Requests as Azure ML passes them on."""

from __future__ import annotations

from conformance_protocol import Form, by_row, of_json

PATH = "/score"


def read(answer, names):
    return by_row(answer.json, names)


def everything(rows):
    return {"params": {"outputs": [field.name for field in rows.signature.outputs]}}


def frame(rows):
    index = list(range(len(rows.values)))
    return {"columns": list(rows.names), "index": index, "data": rows.values}


def read_results(answer, names):
    return by_row(answer.json["Results"], names)


def read_scored(answer, names):
    rows = answer.json["Results"]["WebServiceOutput0"]
    scored = [{names[0]: row.pop("Scored Labels"), **row} for row in rows]
    return by_row(scored, names)


FORMS = {
    "automl": Form(
        lambda rows: of_json(PATH, {"Inputs": {"data": rows.records}, "GlobalParameters": 1.0}),
        read_results,
    ),
    "designer": Form(
        lambda rows: of_json(PATH, {"Inputs": {"input1": rows.records}, "GlobalParameters": {}}),
        read_scored,
    ),
    "data": Form(lambda rows: of_json(PATH, {"data": rows.values}), read),
    "data-records": Form(lambda rows: of_json(PATH, {"data": rows.records}), read),
    "input-data": Form(
        lambda rows: of_json(PATH, {"input_data": frame(rows), **everything(rows)}), read
    ),
    "input-data-rows": Form(lambda rows: of_json(PATH, {"input_data": rows.values}), read),
    "input-data-inputs": Form(lambda rows: of_json(PATH, {"input_data": rows.by_input}), read),
}
