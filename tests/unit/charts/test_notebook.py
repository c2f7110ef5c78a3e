"""Charts in notebooks: their own colours, escaped words, nothing that runs or is fetched."""

from bascule.charts import Figure, notebook_html, within


def test_a_chart_of_a_notebook_needs_no_page_around_it():
    chart = within([("onnx", 1e-9, 1e-6)], "Parity")

    html = notebook_html([Figure("Parity <b>", chart, "of & for")])

    assert html.count("<svg") == 1
    assert "<style>.bascule-charts" in html
    assert "Parity &lt;b&gt;" in html
    assert "of &amp; for" in html
    assert not any(word in html for word in ("<script", "http://", "https://", "onload"))


def test_the_colours_touch_nothing_else_of_the_notebook():
    style = notebook_html([Figure("x", within([], "x"))]).split("<style>")[1].split("</style>")[0]

    rules = [one.split("{")[0] for one in style.replace("\n", " ").split("}") if "{" in one]
    names = [name.strip() for rule in rules for name in rule.split(",") if "@media" not in rule]
    assert all(one.startswith(".bascule-charts") for one in names), names


def test_without_a_chart_nothing_is_added():
    assert notebook_html([]) == ""
