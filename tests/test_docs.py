"""The documentation says what the code does."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_reference_is_made_from_the_configuration():
    make = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == make["reference"]()


def test_every_dependency_has_a_line_that_says_why():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [item for name in extras for item in extras[name]]
    names = {re.split(r"[<>=\[ ]", item)[0] for item in wanted} - {"imgclf"}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert names == set(
        re.findall(r"^\| ([a-z0-9-]+) \| (?:\(always\)|[a-z]+) \|", page, re.MULTILINE)
    )


def test_every_file_that_a_page_links_to_exists():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_lock_file_pins_every_dependency_by_hash_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for item in project["dependencies"] + [item for name in extras for item in extras[name]]:
        name = re.split(r"[<>=\[ ]", item)[0]
        if name != "imgclf":
            assert re.search(rf"^{name}==\S+.* \\$", lock, re.MULTILINE), name
    assert "index" not in lock
    assert "://" not in lock


TRAIN_WITH_ADDED_PARTS = """
import json, sys
from pathlib import Path
from imgclf import recipes

blocks = json.loads(Path(sys.argv[1]).read_text())
lines = {"DATASETS": recipes.DATASETS, "MODELS": recipes.MODELS, "LOSSES": recipes.LOSSES}
lines["SCHEDULES"] = recipes.SCHEDULES
for place, code in blocks:
    name = place.partition(", in ")[2]
    if name in lines:
        lines[name].update(eval("{" + code + "}"))
    elif name == "RECIPES":
        recipes.RECIPES.update(eval("{" + code + "}", vars(recipes)))

from importlib import import_module
for place, code in blocks:
    if ", in " not in place:
        module = import_module(place.removesuffix(".py").replace("/", "."))
        exec("from torch import softmax", vars(module))
        exec(code, vars(module))

import imgclf
result = imgclf.train(imgclf.TrainConfig.from_dict({"recipe": "dark-digits"}))
print(json.dumps([result.metrics["test/accuracy"], str(result.folder)]))
"""


@pytest.mark.slow
def test_the_parts_of_the_page_on_extending_can_be_added_and_trained_with(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (imgclf/[^\n]+)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 10
    (tmp_path / "blocks.json").write_text(json.dumps(blocks))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_WITH_ADDED_PARTS, str(tmp_path / "blocks.json")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    accuracy, folder = json.loads(done.stdout.splitlines()[-1])
    assert accuracy > 0.2  # it learns: chance is 0.1
    assert (Path(folder) / "test" / "confidence.png").exists()
    assert "How sure the model is" in (Path(folder) / "report.html").read_text(encoding="utf-8")
