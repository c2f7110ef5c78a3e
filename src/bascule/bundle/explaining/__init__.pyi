from .columns import ColumnPlace as ColumnPlace, column_places as column_places
from .explainer import (
    EXPLAINERS as EXPLAINERS,
    EXPLAINING_KIND as EXPLAINING_KIND,
    Arrays as Arrays,
    Explainer as Explainer,
    Explanation as Explanation,
    Measured as Measured,
    OpensProgram as OpensProgram,
    measured_of as measured_of,
    open_explainer as open_explainer,
    read_explanation as read_explanation,
    to_files as to_files,
)
from .gradients import ANSWERS as ANSWERS, GRADIENTS as GRADIENTS
from .importances import (
    IMPORTANCE_KIND as IMPORTANCE_KIND,
    Dependence as Dependence,
    Importances as Importances,
    by_column as by_column,
)
from .links import LINKS as LINKS, Link as Link, differences as differences
from .sampling import Game as Game, write_rows as write_rows
