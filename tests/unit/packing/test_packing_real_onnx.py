"""Real models, as they lie in packages: packed, loaded, served, and doing what they are for.

Large: `test_packing_onnx_flavor.py` packs small graphs of the same kinds.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests.own_environments import files_of

import bascule
from bascule.core.errors import Invalid

# The bundle of a network that others made needs one row, to know its types.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::bascule.BasculeWarning")]

MAGIKA = Path(find_spec("magika").submodule_search_locations[0]) / "models" / "standard_v3_3"


@pytest.fixture(scope="module")
def ocr_models():
    return files_of("rapidocr") / "rapidocr_onnxruntime" / "models"


@pytest.fixture(scope="module")
def reader(ocr_models, packed):
    """A model that reads a line of text, of any width."""
    return bascule.load(
        packed("reader", ocr_models / "ch_PP-OCRv4_rec_infer.onnx", line_of_text("1066")[None])
    )


def line_of_text(text, width=320):
    """As RapidOCR hands it over: 48 high, black on white, between -1 and 1."""
    image = Image.new("RGB", (width, 48), "white")
    ImageDraw.Draw(image).text((6, 6), text, "black", ImageFont.load_default(32))
    return (np.asarray(image, np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5


def read_off(scores, file):
    """The text of one line: the likeliest character at each place, without repeats and spaces."""
    (character,) = [p.value for p in onnx.load(file).metadata_props if p.key == "character"]
    alphabet = ["", *character.splitlines(), " "]
    best = scores.argmax(axis=1)
    kept = [b for at, b in enumerate(best) if b and (not at or b != best[at - 1])]
    return "".join("".join(alphabet[place] for place in kept).split())


def one_thread(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


def test_magika_knows_a_python_file_once_it_is_packed(packed):
    labels = json.loads((MAGIKA / "config.min.json").read_text())["target_labels_space"]
    source = Path(__file__).read_bytes()
    row = np.full((1, 2048), 256, np.int32)
    row[0, :1024], row[0, 1024:] = list(source[:1024]), list(source.rstrip()[-1024:])
    bundle = bascule.load(packed("magika", MAGIKA / "model.onnx", row))
    answer = np.asarray(bundle.predict({"bytes": row}))
    assert labels[answer[0].argmax()] == "python"
    assert (
        answer.tobytes() == one_thread(MAGIKA / "model.onnx").run(None, {"bytes": row})[0].tobytes()
    )


@pytest.mark.parametrize(("text", "width"), [("BASCULE42", 320), ("bridge", 160), ("No.7", 96)])
def test_text_is_read_from_lines_of_any_width(reader, ocr_models, text, width):
    file = ocr_models / "ch_PP-OCRv4_rec_infer.onnx"
    rows = line_of_text(text, width)[None]
    scores = np.asarray(reader.predict(rows))
    assert read_off(scores[0], file) == text
    assert scores.tobytes() == one_thread(file).run(None, {"x": rows})[0].tobytes()


def test_text_is_found_in_images_of_any_size(packed, ocr_models):
    file = ocr_models / "ch_PP-OCRv4_det_infer.onnx"
    page = np.concatenate([line_of_text("", 192), line_of_text("found", 192)] * 2, axis=1)
    bundle = bascule.load(packed("finder", file, page[None]))
    for rows in (page[None], page[None, :, :96]):
        found = np.asarray(bundle.predict({"x": rows}))
        assert found.shape == (1, 1, *rows.shape[2:])
        assert found.tobytes() == one_thread(file).run(None, {"x": rows})[0].tobytes()
        assert found[0, 0, 48:96].max() > 0.5 > found[0, 0, :30].max()


def test_a_server_reads_lines_of_two_widths(reader, ocr_models, serve, connect):
    server = serve(reader.path, "--workers=1")
    with connect(server.port) as client:
        for text, width in [("served", 160), ("servedtoo", 320)]:
            rows = line_of_text(text, width)[None]
            tensor = {
                "name": "x",
                "datatype": "FP32",
                "shape": list(rows.shape),
                "data": rows.ravel().tolist(),
            }
            client.request("POST", "/v2/models/reader/infer", {"inputs": [tensor]})
            answer = client.answer()
            assert answer.status == 200, answer.body
            (output,) = answer.json["outputs"]
            scores = np.asarray(output["data"], np.float32).reshape(output["shape"])
            assert read_off(scores[0], ocr_models / "ch_PP-OCRv4_rec_infer.onnx") == text


def test_an_image_of_the_wrong_shape_is_named(reader):
    with pytest.raises(Invalid) as refused:
        reader.predict(line_of_text("flat")[None, :1])
    assert (
        refused.value.message
        == "x has shape [1, 1, 48, 320], and the model takes ['rows', 3, -1, -1]"
    )
