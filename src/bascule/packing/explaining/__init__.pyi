from .importances import measure_importances as measure_importances
from .making import (
    MAKERS as MAKERS,
    Explained as Explained,
    Made as Made,
    Sources as Sources,
    explain as explain,
)
