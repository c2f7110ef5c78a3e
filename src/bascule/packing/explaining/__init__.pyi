from .importances import measure_importances as measure_importances
from .making import (
    MAKERS as MAKERS,
    Explained as Explained,
    Made as Made,
    NotExplained as NotExplained,
    Sources as Sources,
    explain as explain,
    link_of as link_of,
)
