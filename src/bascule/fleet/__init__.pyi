from .places import Place as Place, open_place as open_place
from .publishing import (
    Published as Published,
    publish as publish,
    record as record,
)
from .repository import Keys as Keys, TufRepository as TufRepository, key_in as key_in
