"""Models that write texts: engines behind one program, which answers in parts.

The signature of all of them is `INPUTS` and `OUTPUTS`. A request is a JSON object with the fields
of a chat or completion request as the OpenAI API defines them, or a plain text. A
part of an answer is one row: the piece of text, and a chunk as JSON.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
