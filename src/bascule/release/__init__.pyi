from .against import measure_against as measure_against
from .checking import check as check, check_and_record as check_and_record
from .criteria import (
    FIRST_CRITERION as FIRST_CRITERION,
    METRICS as METRICS,
    OF_FORM as OF_FORM,
    Criterion as Criterion,
    NotWorse as NotWorse,
)
from .fairness import (
    FAIRNESS_KIND as FAIRNESS_KIND,
    PRODUCTION_KIND as PRODUCTION_KIND,
    fairness_findings as fairness_findings,
    held_out_fairness as held_out_fairness,
    join_attributes as join_attributes,
    production_fairness as production_fairness,
)
from .gates import GateReport as GateReport, Measured as Measured, evaluate as evaluate
from .leakage import single_scores as single_scores
from .membership import audit_membership as audit_membership
from .mitigation import METHODS as METHODS, mitigated as mitigated, reweighing as reweighing
from .passports import claims_of as claims_of
from .quality import KIND as KIND, measure_quality as measure_quality
from .reports import FORMS as FORMS, parse_output as parse_output
from .slices import measure_slices as measure_slices, slice_blocks as slice_blocks
