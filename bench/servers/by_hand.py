"""A prediction server as the FastAPI documentation shows it: models in, a model out, a route.

Two routes do the same. `def`, because the documentation says so for work that blocks, and
`predict_proba` does: each request goes to a thread. `async def`, which many write: it blocks the
loop, health checks included, and is cheaper by the thread hop. The answer has the shape of the Open
Inference Protocol, so that all systems read and write the same amount of JSON.
"""

from __future__ import annotations

import os

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(os.environ["MODEL_PATH"])


class InputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferenceRequest(BaseModel):
    inputs: list[InputTensor]


class LabelTensor(BaseModel):
    name: str = "label"
    datatype: str = "INT64"
    shape: list[int]
    data: list[int]


class ProbabilityTensor(BaseModel):
    name: str = "probabilities"
    datatype: str = "FP64"
    shape: list[int]
    data: list[float]


class InferenceResponse(BaseModel):
    model_name: str
    outputs: list[LabelTensor | ProbabilityTensor]


@app.post("/predict")
def predict(request: InferenceRequest) -> InferenceResponse:
    return answer(request)


@app.post("/predict-async")
async def predict_async(request: InferenceRequest) -> InferenceResponse:
    return answer(request)


def answer(request: InferenceRequest) -> InferenceResponse:
    tensor = request.inputs[0]
    rows = np.array(tensor.data).reshape(tensor.shape)
    probabilities = model.predict_proba(rows)
    labels = model.classes_[probabilities.argmax(axis=1)]
    return InferenceResponse(
        model_name="gb",
        outputs=[
            LabelTensor(shape=list(labels.shape), data=labels.tolist()),
            ProbabilityTensor(shape=list(probabilities.shape), data=probabilities.ravel().tolist()),
        ],
    )
