from .delays import delay_curve as delay_curve
from .estimating import estimator_of as estimator_of
from .ledger_rows import read_ledger as read_ledger
from .measuring import measure_performance as measure_performance
from .reference import Reference as Reference
from .report import PerformanceReport as PerformanceReport
from .results import MetricPerformance as MetricPerformance, WindowPerformance as WindowPerformance
from .rows import (
    MAX_SLICE_VALUES as MAX_SLICE_VALUES,
    PredictionRows as PredictionRows,
    places_of_labels as places_of_labels,
    slicing as slicing,
)
from .view import MetricView as MetricView, metrics_of as metrics_of
