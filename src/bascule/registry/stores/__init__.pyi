from .files import Files as Files
from .ports import Objects as Objects
from .sql import Records as Records, Transaction as Transaction
