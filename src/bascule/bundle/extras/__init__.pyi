from .table import Extra as Extra, ExtraRequest as ExtraRequest, open_extras as open_extras
