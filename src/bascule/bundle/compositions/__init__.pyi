from .document import Model as Model, read_document as read_document
from .planning import Plan as Plan, make_plan as make_plan
from .running import CompositionProgram as CompositionProgram
