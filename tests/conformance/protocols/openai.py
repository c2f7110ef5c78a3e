"""None: OpenAI's clients send texts and no rows; see `test_serving_openai.py`."""

FORMS = {}
