"""What a Keras model has to be to become a bundle. Keras runs on PyTorch here."""

from __future__ import annotations

import os
import sys
import warnings
import zipfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
from keras import layers

import bascule
from bascule.bundle.originals import keras_archive as archive
from bascule.core.errors import Invalid, MissingExtra
from bascule.core.fields import DType
from bascule.packing.flavors import flavor_of
from bascule.packing.flavors.keras import save

ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="relu")])


@pytest.fixture(scope="module")
def bundle(small, packed):
    return bascule.load(packed("small", small, ROWS))


def test_a_keras_model_is_one_though_it_may_be_a_module_of_pytorch_too(small):
    assert flavor_of(small).name == "keras"


def test_one_input_and_one_output_have_plain_names(bundle):
    assert [(f.name, f.dtype, f.shape) for f in bundle.signature.inputs] == [
        ("input", DType.FP32, (3,))
    ]
    assert [(f.name, f.shape) for f in bundle.signature.outputs] == [("output", (2,))]


def made_of_shared_parts():
    keras.utils.set_random_seed(0)
    policy = keras.DTypePolicy("float32")
    given = keras.Input((3,), name="given")
    twice = layers.Dense(3, dtype=policy, name="twice")
    bent = layers.Dense(1, dtype=policy, name="bent")(twice(twice(given)))
    model = keras.Model(given, bent, name="model")
    model.compile("adam", "mse")
    return model


def test_the_bytes_of_a_model_tell_nothing_of_the_process_that_saved_it():
    """Keras marks what is shared by its address, and those differ from one model to the next."""
    first, second = made_of_shared_parts(), made_of_shared_parts()
    assert save(first) == save(second)


def test_what_a_model_was_trained_by_is_no_part_of_it():
    model = made_of_shared_parts()
    untrained = save(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy has words with PyTorch here
        model.optimizer.build(model.trainable_variables)
    assert save(model) == untrained
    assert save(archive.load(untrained, "it")) == untrained


def test_inputs_have_the_types_that_the_model_declares(pack):
    word = keras.Input((2,), dtype="int32", name="word")
    size = keras.Input((1,), name="size")
    joined = layers.Concatenate()([layers.Flatten()(layers.Embedding(5, 2)(word)), size])
    model = keras.Model(
        [word, size], [layers.Dense(1, name="low")(joined), layers.Dense(1, name="high")(joined)]
    )
    rows = {"size": np.arange(8.0)[:, None], "word": np.tile([[1, 2]], (8, 1))}
    bundle = pack(model, rows)
    assert [(f.name, f.dtype) for f in bundle.signature.inputs] == [
        ("word", DType.INT32),
        ("size", DType.FP32),
    ]
    assert [field.name for field in bundle.signature.outputs] == ["low", "high"]
    with pytest.raises(Invalid, match="word"):
        bundle.predict({**rows, "word": rows["word"] + 0.5})


def test_how_a_model_was_trained_and_when_is_not_kept(bundle, small):
    with zipfile.ZipFile(bundle.path / "original" / "model.keras") as archive:
        assert archive.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
        assert b"compile_config" not in archive.read("config.json")
        assert b"date" not in archive.read("metadata.json")


class Doubling(layers.Layer):
    def call(self, x):
        return x * 2


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.Lambda(lambda x: x * 2), "the layer Lambda runs code"),
        (Doubling, "Doubling.* is (not one of Keras' layers|code of your own)"),
    ],
    ids=["lambda", "own layer"],
)
def test_a_layer_that_brings_code_is_refused(pack, tmp_path, layer, reason):
    model = keras.Sequential([keras.Input((3,)), layer(), layers.Dense(2)])
    with pytest.raises(Invalid, match=reason) as refused:
        pack(model, ROWS)
    assert "PythonModel" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_ones_own_class_is_refused(pack):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(ROWS)
    with pytest.raises(Invalid, match="Own"):
        pack(model, ROWS)


def test_a_predict_that_is_set_on_the_model_is_refused(pack):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.predict = lambda rows: rows

    with pytest.raises(Invalid, match="has its own predict"):
        pack(model, ROWS)


def test_what_is_not_built_is_refused(pack):
    with pytest.raises(Invalid, match="is not built"):
        pack(keras.Sequential([layers.Dense(2)]), ROWS)


def test_rows_are_needed(pack, small):
    with pytest.raises(Invalid, match="train is missing"):
        pack(small, None)


def test_without_keras_the_original_says_how_to_install_it(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert bundle.predict(ROWS)["output"].shape == (20, 2)
    with pytest.raises(MissingExtra, match="keras is not installed") as refused:
        bascule.load(bundle.path).original()
    assert refused.value.hint == "pip install 'bascule[keras]'"
