"""What each module may import: the predictor needs no training library; data flows one way."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imgclf

PACKAGE = Path(imgclf.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
REFERENCE = Path(__file__).parents[1] / "exports" / "reference"

# A module imports only what stands before it.
FLOW = [
    "errors",
    "disk",
    "recipes",
    "options",
    "contradictions",
    "config",
    "card",
    "preprocess",
    "golden",
    "seal",
    "container",
    "cores",
    "model_file",
    "predict",
    "verify",
    "own_process",
    "serving",
    "interruption",
    "data",
    "models",
    "training",
    "evaluation",
    "tracking",
    "exporting",
    "progress",
    "next_command",
    "pipeline",
    "summary",
    "command",
    "config_command",
    "model_commands",
    "serve_command",
    "sync_command",
    "train_commands",
    "cli",
    "__main__",
]

WITHOUT_TRAINING_LIBRARIES = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "mlflow", "pandas", "sklearn",
                                  "matplotlib", "onnx", "onnxscript", "rich", "safetensors",
                                  "jinja2", "psutil", "pynvml", "yaml", "filelock"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
import imgclf, imgclf.cli, imgclf.config, imgclf.errors, imgclf.recipes
import imgclf.card, imgclf.preprocess, imgclf.predict

try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("torch was not blocked")
"""

PREDICT_WITHOUT_TRAINING_LIBRARIES = (
    WITHOUT_TRAINING_LIBRARIES
    + """
(answer,) = imgclf.Predictor(sys.argv[1])([sys.argv[2]])
print(json.dumps(answer.to_dict()))
"""
)

# The command as a person starts it, asked by a thread, and ended by it.
SERVE_WITHOUT_TRAINING_LIBRARIES = (
    WITHOUT_TRAINING_LIBRARIES
    + """
import os, pathlib, signal, socket, threading, time, urllib.error, urllib.request
from imgclf.cli import main

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
url = f"http://127.0.0.1:{port}/predict"

def ask():
    image = pathlib.Path(sys.argv[2]).read_bytes()
    for _ in range(600):
        try:
            print(urllib.request.urlopen(url, image, timeout=60).read().decode(), flush=True)
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask).start()
main(["serve", sys.argv[1], "--port", str(port)], prog_name="imgclf")
"""
)

SLOW_MODULES_AFTER_TRAINING = """
import sys
import imgclf
imgclf.train(imgclf.TrainConfig(epochs=1, batch_size=512, runs_dir=sys.argv[1]))
slow = ("mlflow", "pandas", "sklearn", "scipy", "torch._dynamo", "torch._inductor", "torchvision")
print(sorted(set(slow) & set(sys.modules)))
"""

HEAVY_MODULES_AFTER = """
import sys
from imgclf.cli import main
try:
    main(sys.argv[1:], prog_name="imgclf")
except SystemExit as end:
    code = end.code
heavy = ("numpy", "onnxruntime", "PIL", "torch", "torchvision", "mlflow", "sklearn", "rich")
print("\\n", code, sorted(set(heavy) & set(sys.modules)))
"""


def python(code: str, *arguments: "str | Path") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predictor_works_where_no_training_library_is_installed(exported, digit_files: Path):
    image = next((digit_files / "3").iterdir())
    model = Path(exported.model).absolute()
    answer = json.loads(python(PREDICT_WITHOUT_TRAINING_LIBRARIES, model, image))
    (expected,) = imgclf.Predictor(model)([image])
    assert answer == expected.to_dict()
    assert answer["label"] == "3"


def test_server_works_where_no_training_library_is_installed():
    model, image = REFERENCE / "model.onnx", REFERENCE / "example.png"
    (answer,) = json.loads(python(SERVE_WITHOUT_TRAINING_LIBRARIES, model, image))["predictions"]
    (expected,) = imgclf.Predictor(model)([image])
    assert answer == {**expected.to_dict(), "image": "image"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("--help", 0), ("train --help", 0), ("train --model nothing", 2), ("trian", 2)],
)
def test_help_and_mistakes_are_answered_without_loading_libraries(arguments: str, code: int):
    last = python(HEAVY_MODULES_AFTER, *arguments.split()).splitlines()[-1]
    assert last == f" {code} []"


def test_predicting_with_a_file_loads_neither_torch_nor_mlflow(exported, digit_files: Path):
    image = next((digit_files / "3").iterdir())
    model = Path(exported.model).absolute()
    last = python(HEAVY_MODULES_AFTER, "predict", model, image).splitlines()[-1]
    assert last == " 0 ['PIL', 'numpy', 'onnxruntime']"


@pytest.mark.slow
def test_training_waits_for_no_library_that_it_does_not_compute_with(tmp_path: Path):
    """Each takes seconds to import; mlflow is imported by another process."""
    last = python(SLOW_MODULES_AFTER_TRAINING, tmp_path).splitlines()[-1]
    assert last == "[]"


def test_public_names_are_all_there_and_load_on_first_use():
    for name in imgclf.__all__:
        assert getattr(imgclf, name).__name__ == name
        assert name in dir(imgclf)
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = imgclf.Trainer  # type: ignore
    code = "import sys, imgclf; print([name for name in sys.modules if name.startswith('imgclf.')])"
    assert python(code) == "[]\n"


def imported_by(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    """The module or sub-package of imgclf that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_stands_before_it(path: Path):
    if path == PACKAGE / "__init__.py":
        pytest.skip("gathers the public names")
    own = part_of(path)
    assert own in FLOW, f"'{own}' has no place in the flow: say in FLOW where it stands"
    allowed = {*FLOW[: FLOW.index(own) + 1], "__version__"}
    for name in imported_by(path):
        package, _, rest = name.partition(".")
        if package == "imgclf":
            assert rest.split(".")[0] in allowed, f"{own} comes before {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_imported_where_they_belong(path: Path):
    own = part_of(path)
    libraries = {name.split(".")[0] for name in imported_by(path)}
    if own != "tracking":
        assert "mlflow" not in libraries
    light = ("errors", "recipes", "options", "contradictions", "config", "card", "command", "cli")
    if own in (*light, "__init__", "__main__"):
        assert libraries <= {*sys.stdlib_module_names, "imgclf", "click", "yaml"}
    if own in ("preprocess", "predict"):
        used = {*sys.stdlib_module_names, "imgclf", "numpy", "PIL", "onnxruntime"}
        assert libraries <= used


def loads_that_can_run_code(tree: ast.Module) -> Iterator[str]:
    """Every use of pickle but an unpickler with an allow-list of its own; every unsafe option."""
    allow_lists = [
        base
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(
            isinstance(part, ast.FunctionDef) and part.name == "find_class" for part in node.body
        )
        for base in node.bases
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            if node not in allow_lists and node.attr != "UnpicklingError":
                yield ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]} - {"imgclf"}
            forbidden = {"joblib", "dill", "cloudpickle", "shelve", "marshal"}
            if names & forbidden or (isinstance(node, ast.ImportFrom) and "pickle" in names):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            called = ast.unparse(node.func)
            if called == "torch.load" and options.get("weights_only") != "True":
                yield ast.unparse(node)
            if options.get("allow_pickle", "False") != "False" or called in ("eval", "exec"):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_can_run_code_is_loaded_from_a_file(path: Path):
    assert list(loads_that_can_run_code(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle; pickle.load(file)",
        "import pickle; pickle.Unpickler(file).load()",
        "import pickle\nclass Open(pickle.Unpickler):\n    pass",
        "from pickle import load",
        "from joblib import load",
        "import joblib",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_loads_that_can_run_code_are_seen(code: str):
    assert list(loads_that_can_run_code(ast.parse(code)))
