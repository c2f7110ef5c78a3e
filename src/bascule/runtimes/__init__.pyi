from .exporting import (
    RUNTIMES as RUNTIMES,
    Exported as Exported,
    export as export,
)
