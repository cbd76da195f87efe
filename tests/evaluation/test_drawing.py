import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imgclf.evaluation.drawing import message, save
from imgclf.evaluation.figures import confusion_matrix, curves, per_class
from imgclf.evaluation.image_grids import correct
from imgclf.evaluation.metrics import Metrics

COUNTS = np.array([[8, 2, 0], [0, 0, 5], [0, 0, 0]], dtype=np.int64)
CLASSES = ["$a$", "b", "c"]
PER_CLASS = Metrics(loss=0.0, top5=None, confusion=COUNTS).per_class
FIGURES = {
    "confusion": confusion_matrix(COUNTS, CLASSES),
    "curves": curves({"train/loss": [(1, 1.0)], "lr": [(1, 0.1)]}, best_epoch=1),
    "bars": per_class(PER_CLASS, CLASSES, "Test"),
    "images": correct(
        np.full((12, 8, 8, 1), 99, np.uint8), np.arange(12) % 3, np.ones(12), CLASSES, "Right"
    ),
    "message": message("No images"),
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_saved_pictures_have_a_sensible_size_and_margin(figure: Figure, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save(figure, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 500 < picture.width < 2500
        assert 150 < picture.height < 2500
        pixels = np.asarray(picture.convert("L"))
    rows, columns = np.nonzero(pixels < 250)
    height, width = pixels.shape
    margins = [rows.min(), columns.min(), height - 1 - rows.max(), width - 1 - columns.max()]
    # Nothing is clipped at the border, and no space is wasted around what is drawn.
    assert min(margins) > 5
    assert max(margins) < 60


def test_settings_of_the_user_neither_change_nor_matter(tmp_path: Path) -> None:
    plain, coloured = tmp_path / "plain.png", tmp_path / "coloured.png"
    save(confusion_matrix(COUNTS, CLASSES), plain)
    changes = {"axes.facecolor": "black", "text.color": "red", "font.size": 30, "savefig.dpi": 10}
    with matplotlib.rc_context(changes):
        before = dict(matplotlib.rcParams)
        save(confusion_matrix(COUNTS, CLASSES), coloured)
        assert dict(matplotlib.rcParams) == before
    assert coloured.read_bytes() == plain.read_bytes()


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from imgclf.evaluation.drawing import save
from imgclf.evaluation.figures import curves
save(curves({"train/loss": [(1, 1.0)]}), Path(sys.argv[1]))
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    path = tmp_path / "curves.png"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.exists()
