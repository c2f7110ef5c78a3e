"""None: OpenAI's clients send texts and no rows; see `tests/unit/serving/test_serving_openai.py`."""

FORMS = {}
