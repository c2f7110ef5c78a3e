from .extra import Extra as Extra, ExtraRequest as ExtraRequest, Parameter as Parameter
from .outlier import (
    OUTLIER_P as OUTLIER_P,
    OUTLIER_SCORE as OUTLIER_SCORE,
    Outlier as Outlier,
)
from .table import (
    EXTRAS as EXTRAS,
    declared_extras as declared_extras,
    open_extras as open_extras,
    parameters_in as parameters_in,
    read_pairs as read_pairs,
    read_requests as read_requests,
    read_texts as read_texts,
    with_extras as with_extras,
)
