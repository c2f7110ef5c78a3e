"""The table of kinds of jobs: a line adds a kind."""

from __future__ import annotations

from bascule.jobs import Kinds

KINDS = Kinds(
    {
        "batch": "bascule.kinds.batch:BATCH",
        "preview": "bascule.kinds.batch:PREVIEW",
        "pack": "bascule.kinds.packing:PACK",
        "take_in": "bascule.kinds.packing:TAKE_IN",
        "push": "bascule.kinds.packing:PUSH",
        "forecasts": "bascule.kinds.packing:FORECASTS",
        "monitor": "bascule.kinds.reports:MONITOR",
        "drift": "bascule.kinds.reports:DRIFT",
        "performance": "bascule.kinds.reports:PERFORMANCE",
        "slices": "bascule.kinds.reports:SLICES",
        "callers": "bascule.kinds.reports:CALLERS",
        "incident": "bascule.kinds.reports:INCIDENT",
        "replay": "bascule.kinds.reports:REPLAY",
        "document": "bascule.kinds.reports:DOCUMENT",
        "explain": "bascule.kinds.reports:EXPLAIN",
        "plots": "bascule.kinds.reports:PLOTS",
        "erasure": "bascule.kinds.privacy:ERASURE",
        "held": "bascule.kinds.privacy:HELD",
        "judge": "bascule.kinds.reports:JUDGE",
        "judge_answers": "bascule.kinds.judging:JUDGE_ANSWERS",
        "publish_edge": "bascule.kinds.edge:PUBLISH_EDGE",
        "train": "bascule.kinds.training:TRAIN",
        "trigger": "bascule.kinds.training:TRIGGER",
        "optimise": "bascule.kinds.optimising:OPTIMISE",
        "automl": "bascule.kinds.automl:AUTOML",
        "columns": "bascule.kinds.automl:COLUMNS",
        "inference": "bascule.kinds.deferred:INFER",
        "callback": "bascule.kinds.deferred:TELL",
    }
)
