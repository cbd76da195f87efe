"""The documentation says what the code does."""

import re
import runpy
import tomllib
from pathlib import Path

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
