from .document import Output as Output, read_document as read_document
from .planning import make_plan as make_plan
from .running import CompositionProgram as CompositionProgram
