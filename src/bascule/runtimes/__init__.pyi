from .exporting import (
    RUNTIMES as RUNTIMES,
    Exported as Exported,
    export as export,
    open_exported as open_exported,
)
from .program import ExportedProgram as ExportedProgram
