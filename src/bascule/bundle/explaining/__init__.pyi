from .columns import (
    IMPORTANCE_KIND as IMPORTANCE_KIND,
    ColumnPlace as ColumnPlace,
    column_places as column_places,
)
from .counterfactuals import (
    Range as Range,
    counterfactuals as counterfactuals,
    ranges_of as ranges_of,
)
from .explainer import (
    EXPLAINERS as EXPLAINERS,
    EXPLAINING_KIND as EXPLAINING_KIND,
    Arrays as Arrays,
    Explainer as Explainer,
    Explanation as Explanation,
    Features as Features,
    Measured as Measured,
    affordable_rows as affordable_rows,
    measured_of as measured_of,
    open_explainer as open_explainer,
    read_explanation as read_explanation,
    to_files as to_files,
)
from .gradients import ANSWERS as ANSWERS, GRADIENTS as GRADIENTS
from .links import LINKS as LINKS, differences as differences
from .sampling import (
    Coalitions as Coalitions,
    Sampled as Sampled,
    usual_pairs as usual_pairs,
)
from .showing import waterfall_plot as waterfall_plot
from .trees import (
    FAILS as FAILS,
    MAX_POINTS as MAX_POINTS,
    NODE as NODE,
    PASSES_MISSING as PASSES_MISSING,
)
