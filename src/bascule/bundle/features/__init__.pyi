from .feast import (
    AGE as AGE,
    Features as Features,
    declared as declared,
    features_of as features_of,
    join as join,
    signature_for_callers as signature_for_callers,
)
from .filling import FilledProgram as FilledProgram
