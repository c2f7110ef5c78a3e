from .document import (
    MAX_PARTS as MAX_PARTS,
    Document as Document,
    Part as Part,
    read_document as read_document,
)
from .planning import Plan as Plan, make_plan as make_plan
from .running import CompositionProgram as CompositionProgram
