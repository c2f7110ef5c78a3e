from .table import Extra as Extra, Wanted as Wanted, open_extras as open_extras
