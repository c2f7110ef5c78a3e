from . import predictors as predictors, tokenized as tokenized, trees as trees
from .apart import (
    TREE_NUMBERS as TREE_NUMBERS,
    arrays_of as arrays_of,
    ensemble_of as ensemble_of,
    take_apart as take_apart,
)
from .boosted import compile_ensemble as compile_ensemble
from .catboost import (
    as_json as as_json,
    catboost_threshold as catboost_threshold,
    read_catboost as read_catboost,
)
from .catboost_categories import known_categories as known_categories, preparation as preparation
from .lightgbm import read_lightgbm as read_lightgbm
from .sklearn import compilations as compilations
from .steps import check_methods as check_methods
from .sums import Sum as Sum, sum_of_products as sum_of_products, sum_of_trees as sum_of_trees
from .tidying import tidy as tidy
from .torch import (
    ROWS as ROWS,
    export as export,
    gist as gist,
    quietly as quietly,
    to_core as to_core,
    to_onnx as to_onnx,
)
from .trees import rounded_down as rounded_down
from .values import label_dtype as label_dtype
from .xgboost import booster_of as booster_of, read_xgboost as read_xgboost
