from .files import (
    Folder as Folder,
    Place as Place,
    open_place as open_place,
    place_beside as place_beside,
)
from .listing import bounded as bounded, bounded_stream as bounded_stream
from .s3 import connect as connect, explaining as explaining, is_missing as is_missing
