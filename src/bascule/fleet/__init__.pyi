from .keys import Keys as Keys, key_in as key_in
from .places import Place as Place, open_place as open_place
from .publishing import Published as Published, publish as publish, record as record
from .repository import TufRepository as TufRepository
