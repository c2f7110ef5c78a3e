"""What ends a process in a library's own code is refused before it is reached."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.tiers import first_of

_CASE = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, pandas as pd
import bascule
from bascule.core.errors import BasculeError
from catboost import CatBoostClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
table = pd.DataFrame({"said": ["good film", "bad film", "so so", "great good"] * 30})
table["x"] = np.arange(120.0)
texts = CatBoostClassifier(3, text_features=["said"], verbose=0, allow_writing_files=False)
"""
_REFUSED = "'said' as text (text_features)"
_MODELS = {
    "alone": "texts.fit(table, [1, 0, 0, 1] * 30)",
    "in a pipeline": "make_pipeline(FunctionTransformer(), texts).fit(table, [1, 0, 0, 1] * 30)",
    "read back": "read_back(texts.fit(table, [1, 0, 0, 1] * 30))",
}
_READ_BACK = """
def read_back(model):
    model.save_model("m.cbm")
    return CatBoostClassifier().load_model("m.cbm")
"""


@pytest.mark.parametrize("name", first_of(["in a pipeline", "alone", "read back"]))
def test_a_model_of_catboost_that_reads_texts_is_refused(tmp_path, name):
    """CatBoost 1.2 writes a copy of one that ends the process that reads it."""
    code = (
        f"{_CASE}{_READ_BACK}model = {_MODELS[name]}\n"
        + """
try:
    bascule.pack(model, name="m", train=table, to="m", serve_original=True)
except BasculeError as refused:
    print(refused.message, "|", refused.hint)
"""
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-800:]
    assert _REFUSED in ran.stdout
    assert "TfidfVectorizer" in ran.stdout
