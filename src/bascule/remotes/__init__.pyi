from .fetching import PLACES as PLACES, fetch as fetch, is_address as is_address
from .objects import Remote as Remote, choose as choose
