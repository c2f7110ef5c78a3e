"""Keras, on PyTorch here; `test_keras_on_tensorflow.py` runs the same where TensorFlow is."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from conformance_sample import Sample
from keras import layers


def _asked(model, names):
    """Keras itself, whichever way the rows are handed in; `names` are those of the outputs."""

    def ask(rows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy has words with PyTorch here
            answer = model.predict_on_batch(rows)
        if not isinstance(answer, dict):
            answer = {names[0]: answer}
        return {name: np.asarray(values) for name, values in answer.items()}

    return ask


def two_in_two_out() -> Sample:
    keras.utils.set_random_seed(0)
    numbers = keras.Input((6,), name="numbers")
    word = keras.Input((1,), name="word", dtype="int32")
    bent = layers.BatchNormalization()(layers.Dense(16, activation="tanh")(numbers))
    joined = layers.Concatenate()(
        [layers.Dropout(0.5)(bent), layers.Flatten()(layers.Embedding(12, 4)(word))]
    )
    model = keras.Model(
        {"numbers": numbers, "word": word},
        {"scores": layers.Dense(3)(joined), "doubled": layers.Dense(2)(joined * 2.0)},
    )
    model.compile("sgd", {"scores": "mse", "doubled": "mse"})
    random = np.random.default_rng(0)
    rows = {
        "numbers": random.normal(size=(100, 6)).astype(np.float32),
        "word": random.integers(0, 12, (100, 1)).astype(np.int32),
    }
    truth = {"scores": random.normal(size=(100, 3)), "doubled": random.normal(size=(100, 2))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows, truth, verbose=0)
    train = {name: values[:32] for name, values in rows.items()}
    return Sample(model, train, rows, _asked(model, []), saved_within=1e-6, allows_huge=False)


def images() -> Sample:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, activation="silu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    rows = np.random.default_rng(1).normal(size=(70, 12, 12, 1)).astype(np.float32)
    ask = _asked(model, ["output"])
    return Sample(model, rows[:10], rows, ask, saved_within=1e-6, allows_huge=False)


SAMPLES = {"two-in-two-out": two_in_two_out, "images": images}
