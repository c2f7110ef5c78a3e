"""The page of an export in a real browser: it predicts, also when its server is gone."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.browsers import visiting
from tests.own_environments import modules_of
from tests.unit.runtimes.models import packed

from bascule.bundle import disk, for_program
from bascule.runtimes import export

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    bundle = packed("forest", folder)
    tools = modules_of("onnxruntime_web")
    return bundle, folder / "page", export(bundle, "web", folder / "page", tools=tools)


def test_real_and_made_up_rows_are_answered_as_the_program_does(exported):
    _, _, result = exported
    assert result.parity.passed
    assert result.parity.max_difference <= 1e-12
    assert result.parity.probes > 300
    assert result.latency_p50_us > 0


def test_the_page_predicts_and_goes_on_without_its_server(exported, chromium):
    bundle, folder, _ = exported
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        with visiting(chromium) as visit:
            page = visit.open(address)
            page.wait_for_selector("html[data-ready=offline]")
            first = predicted(page)
            visit.check()
            server.shutdown()
            server.server_close()
            page.reload()
            page.wait_for_selector("html[data-ready=offline]")
            assert predicted(page) == first
            page.get_by_label("a", exact=True).fill("2.5")
            page.get_by_label("city, or null").fill("")
            assert predicted(page) != first
    finally:
        server.shutdown()
        server.server_close()
    rows = disk.columns_of((bundle.path / disk.EXAMPLE).read_bytes(), bundle.signature.inputs)
    program = bundle.program()
    expected = program.run(for_program(rows, program.inputs))
    label, probabilities = first.splitlines()
    assert label == f"label: {expected['label'][0]}"
    shown = [float(part) for part in probabilities.removeprefix("probabilities: ").split(", ")]
    assert shown == pytest.approx(expected["probabilities"][0].tolist(), abs=1e-12)


def predicted(page):
    """What the page shows after a click."""
    page.evaluate("document.querySelector('output').textContent = ''")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_function("document.querySelector('output').textContent !== ''")
    return page.locator("output").text_content()
