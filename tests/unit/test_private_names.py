"""Private attributes of libraries: each is listed here, with the version looked at, and why.

A module uses private attributes of classes that it defines itself, and of no other module of ours.
"""

import ast
import re
from pathlib import Path

from tests.sources import tree_of

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
_OWN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_DOCUMENTED = re.compile(r"__\w+__|_(fields|replace|asdict|mapping|exit|current_frames)|_[A-Z].*")
"""Of named tuples, of rows of SQLAlchemy, of `os` and of `sys`; their names begin so all the same.
"""

_MAY_USE = re.compile(r"(?<!self)(?<!cls)\._[a-z]|(?:get|has)attr\(")
"""Without one of these in its text, a module uses none, and is not parsed."""

SKLEARN = ("scikit-learn", "1.9")
LOOKED_AT = {
    SKLEARN: {
        "packing.compilers.clusters": {"_estimate_weighted_log_prob"},
        "packing.compilers.encoding": {
            "_drop_idx_after_grouping", "_default_to_infrequent_mappings", "_infrequent_enabled",
        },
        "packing.compilers.imputing": {"_min_value", "_max_value"},
        "packing.compilers.kernels": {"_gamma"},
        "packing.compilers.meta_estimators": {
            "_weights_not_none", "_get_pos_label", "_curve_scorer",
        },
        "packing.compilers.outliers": {
            "_average_path_length_per_tree", "_decision_path_lengths", "_max_samples",
        },
        "packing.compilers.predictors": {
            "_predictors", "_x_mean", "_raw_predict_init", "_baseline_prediction", "_preprocessor",
        },
        "packing.compilers.scaling": {"_max_degree", "_min_degree", "_scaler"},
        "packing.compilers.steps": {"_transformer_to_input_indices", "_get_support_mask"},
        "packing.compilers.texts": {"_tfidf"},
        # What a saved original holds is compared with what its code will reach into.
        "bundle.originals.structures": {
            "_bin_mapper", "_predictors", "_dual_coef_", "_intercept_", "_n_features_outs",
            "_baseline_prediction", "_bisecting_tree", "_drop_idx_after_grouping",
            "_estimators_features", "_default_to_infrequent_mappings", "_infrequent_enabled",
        },
    },
    # From 1.18 a spline hands on to another object; before, it has the knots itself.
    ("scipy", "1.17"): {"bundle.originals.structures": {"_delegate_to", "_t", "_c"}},
    # The public method draws by the place of a row in the batch.
    ("fairlearn", "0.15"): {"release.thresholded": {"_pmf_predict"}},
    # No public name says what arguments an operator has, nor that an object is one.
    ("torch", "2.13"): {"bundle.originals.aten": {"_schema", "_ops"}},
    # What `InferenceSession.run` adds are checks that have been made: a tenth of a small model.
    ("onnxruntime", "1.28"): {
        "bundle.programs.onnx": {"_sess"}, "bundle.programs.trees": {"_sess"},
    },
    # No public name says what arguments a pipeline was made with.
    ("transformers", "5.24"): {
        "bundle.originals.pipelines": {"_preprocess_params", "_postprocess_params"},
    },
    # No public method forgets a part of what was computed, nor has logits without keeping all.
    ("llama_cpp_python", "0.3.36"): {"bundle.generation.llama": {"_batch", "_ctx"}},
    # `StreamReader` has no public test for bytes that came unasked.
    ("python", "3"): {"bascule_client.aio": {"_buffer"}},
}  # fmt: skip
"""By library and version, and by module: what is used. A fitted estimator keeps in these what it
computes with, and no public name gives it."""


def _used(tree):
    """Private attributes that a module uses of what it does not define."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, _OWN)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if is_own else names).add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            names |= {str(one.value) for one in node.args if isinstance(one, ast.Constant)}
    return {n for n in names - own if n.startswith("_") and not _DOCUMENTED.fullmatch(n)}


def test_every_private_attribute_of_a_library_is_listed_with_what_it_was_looked_at_in():
    used = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removeprefix("bascule.")
        if _MAY_USE.search(path.read_text()) and (names := _used(tree_of(path))):
            used[module] = names
    listed = {}
    for modules in LOOKED_AT.values():
        for module, names in modules.items():
            listed[module] = listed.get(module, set()) | names
    assert used == listed


def test_the_version_that_was_looked_at_is_the_one_that_is_locked():
    """With another one, look again at what is listed, and then change the number here."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w-]+)==(\d+\.\d+)", lock, re.MULTILINE))
    libraries = {library for library, _ in LOOKED_AT} & set(locked)  # PyTorch is in no lock
    assert len(libraries) >= 3
    assert {(library, locked[library]) for library in libraries} <= set(LOOKED_AT)
