from .figures import (
    Lane as Lane,
    Series as Series,
    histogram as histogram,
    lines as lines,
    non_dominated as non_dominated,
    ranked as ranked,
    roc as roc,
    sparkline as sparkline,
    then_and_now as then_and_now,
    waterfall as waterfall,
    within as within,
)
from .flows import (
    Node as Node,
    Route as Route,
    lineage as lineage,
    shares as shares,
    split as split,
)
from .frame import SIZE as SIZE, Chart as Chart, Svg as Svg, grid as grid
