from .checking import check as check, check_and_record as check_and_record
from .criteria import METRICS as METRICS, Criterion as Criterion
from .gates import GateReport as GateReport, Measured as Measured, evaluate as evaluate
from .passports import claims_of as claims_of, write_passport as write_passport
from .quality import KIND as KIND, measure_quality as measure_quality
from .reports import FORMS as FORMS, parse_output as parse_output
