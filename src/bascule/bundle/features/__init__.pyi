from .feast import (
    AGE as AGE,
    Features as Features,
    declared as declared,
    features_of as features_of,
    join as join,
)
from .filling import FilledProgram as FilledProgram
