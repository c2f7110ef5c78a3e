from .files import Files as Files
from .listing import bounded as bounded, bounded_stream as bounded_stream
from .ports import Objects as Objects
from .s3 import connect as connect, explaining as explaining, is_missing as is_missing
from .sql import Records as Records, Transaction as Transaction
