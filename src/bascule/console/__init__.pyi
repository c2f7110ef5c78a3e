from .site import add_console as add_console
