"""The rules of the house: import contracts, the heads of optimizer files, complete exports, and a README that runs as written."""

import ast
import contextlib
import doctest
import functools
import importlib
import inspect
import io
import itertools
import pathlib
import pkgutil
import re
import tomllib
import types

import numpy as np
import pytest

import nearlin
from tests.conftest import sampled

ROOT = pathlib.Path(__file__).parents[1]
OPTIMIZER_FILES = sorted(p for p in (ROOT / "nearlin" / "optim").glob("*.py") if p.stem != "__init__")
FIELDS = ["Paper", "Update", "Notation", "Cost", "Oracles", "Deviations"]


def test_imports_go_down_the_floors(monkeypatch):
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = cli.lint_imports(no_cache=True)
    assert status == cli.EXIT_STATUS_SUCCESS, out.getvalue()


@functools.cache
def imported():
    """For every file of the library but the faces of packages: the files that it imports, inside functions too, and the names."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in (ROOT / "nearlin").rglob("*.py")}
    found = {}
    for module, path in files.items():
        nodes = ast.walk(ast.parse(path.read_text())) if path.stem != "__init__" else ()
        names = [(n.module, a.name) for n in nodes if isinstance(n, ast.ImportFrom) and n.module for a in n.names]
        found[module] = {(f"{room}.{name}", None) if f"{room}.{name}" in files else (room, name) for room, name in names}
    return {module: {(room, name) for room, name in pairs if room in files} for module, pairs in found.items()}


def test_no_file_imports_a_private_name_of_another():
    pairs = [(module, room, name) for module, pairs in imported().items() for room, name in pairs]
    assert [pair for pair in pairs if (pair[2] or "").startswith("_")] == []


def test_files_do_not_import_one_another_in_a_circle():
    below = {module: {room for room, _ in pairs} for module, pairs in imported().items()}
    while leaves := {module for module, rooms in below.items() if not rooms}:
        below = {module: rooms - leaves for module, rooms in below.items() if module not in leaves}
    assert below == {}


@pytest.mark.parametrize("path", OPTIMIZER_FILES, ids=lambda p: p.stem)
def test_an_optimizer_file_opens_with_the_six_fields(path):
    head = ast.get_docstring(ast.parse(path.read_text()))
    assert re.findall(r"^([A-Z][a-z]+) {2,}\S", head, flags=re.MULTILINE) == FIELDS
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.", head)
    deviations = head[head.index("Deviations") :]
    assert "none" in deviations or "1. " in deviations


@pytest.mark.parametrize("room", ["linalg", "sketch", "nn", "curvature", "steps", "data", "optim", "complexity", "experiments"])
def test_exports_exist_and_are_documented(room):
    module = importlib.import_module(f"nearlin.{room}")
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, f"nearlin.{room}.{name} has no docstring"


def test_every_room_has_a_name_in_the_library_and_names_are_looked_up_once():
    rooms = {m.name for m in pkgutil.iter_modules(nearlin.__path__) if m.ispkg and not m.name.startswith("_")}
    assert rooms - {"sklearn"} == {name for name in nearlin.__all__ if inspect.ismodule(getattr(nearlin, name))}
    assert [name for name in nearlin.__all__ if vars(nearlin).get(name) is not getattr(nearlin, name)] == []
    assert sorted(dir(nearlin)) == sorted(set(dir(nearlin)) | set(nearlin.__all__))


def test_every_module_says_what_it_is():
    modules = [m.name for m in pkgutil.walk_packages(nearlin.__path__, "nearlin.") if not m.name.endswith("__main__")]
    assert [name for name in modules if not importlib.import_module(name).__doc__] == []


def defined():
    """Every public function and class of the library, and every public method and property of these classes, by their names."""
    for module in (m.name for m in pkgutil.walk_packages(nearlin.__path__, "nearlin.") if not m.name.endswith("__main__")):
        for name, value in vars(importlib.import_module(module)).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == module:
                yield f"{module}.{name}", value
                members = vars(value) if inspect.isclass(value) else ()
                yield from ((f"{module}.{name}.{one}", getattr(value, one)) for one in members if not one.startswith("_"))


def written_out(value):
    """Whether it has a ``class`` or ``def`` of its own: what is made by a call, or is a lambda, cannot be documented there."""
    function = getattr(value, "fget", None) or getattr(value, "func", None) or value
    return isinstance(function, types.FunctionType | types.MethodType | type) and "<" not in function.__qualname__


def test_every_public_function_and_method_says_what_it_gives():
    documented = {name: bool(inspect.getdoc(value)) for name, value in defined() if written_out(value)}
    assert documented["nearlin.nn.layers.Dense.forward"]
    assert [name for name, is_documented in documented.items() if not is_documented] == []


EXAMPLES = sorted(p for p in (ROOT / "nearlin").rglob("*.py") if ">>> " in p.read_text())
ENTRIES = (nearlin.linalg.cg, nearlin.optim.NearLinearGaussNewton, nearlin.complexity.count, nearlin.complexity.flops_of)
ENTRIES += (nearlin.experiments.train, nearlin.experiments.verify, nearlin.experiments.estimate)
ENTRIES += tuple(getattr(nearlin.sketch, name) for name in nearlin.sketch.__all__)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.stem}-{p.stem}")
def test_the_examples_of_docstrings_give_what_they_say(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(name.removesuffix(".__init__"))
    found = doctest.testmod(module, extraglobs={"np": np, "nl": nearlin})
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_what_users_call_first_has_an_example(entry):
    assert doctest.DocTestFinder(recurse=False).find(entry, entry.__name__)[0].examples


def test_the_readme_example_runs_as_written():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    losses = [float(line.split()[1]) for line in out.getvalue().splitlines()]
    assert len(losses) == 8
    assert all(after <= 0.25 * before for before, after in itertools.pairwise(losses))


def test_the_cupy_example_of_the_backends_page_runs_on_numpy_arrays():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "backends.md").read_text(), flags=re.DOTALL)
    x, y = nearlin.data.sphere(n=16, d=3, seed=0)
    net, opt = nearlin.nn.TwoLayer(inputs=3, width=64), nearlin.optim.NearLinearGaussNewton()
    names = {"x": x, "y": y, "net": net, "opt": opt, "objective": nearlin.nn.Objective(net, nearlin.nn.SquaredLoss())}
    exec(code.replace("import cupy as cp", "import numpy as cp"), names)
    assert names["info"].accepted


def test_versions_agree():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1]
    assert pyproject["project"]["version"] == nearlin.__version__ == citation


def test_every_implemented_paper_is_cited():
    cited = (ROOT / "CITATION.cff").read_text()
    for path in OPTIMIZER_FILES:
        paper = ast.get_docstring(ast.parse(path.read_text())).split("Update")[0]
        references = [arxiv or doi for arxiv, doi in re.findall(r"arXiv:(\d{4}\.\d{4,5})|doi:(10\.[^\s;,]+)", paper)]
        assert references, path.stem
        assert [reference for reference in references if reference not in cited] == [], path.stem


class Case:
    """What is read of a test's item."""

    def __init__(self, **params):
        self.nodeid, self.callspec = f"test[{params}]", types.SimpleNamespace(params=params)


@pytest.mark.parametrize(("backend", "kept"), [("numpy:readonly", 12), ("torch", 4), ("array_api_strict:device1", 1)])
def test_cases_that_wait_for_the_night_have_no_value_of_their_own(backend, kept):
    cases = [Case(be=backend, letter=letter, sign=sign) for letter, sign in itertools.product("abcd", "+-0")]
    found = [case.callspec.params for case in sampled(cases)]
    assert len(found) == kept
    if kept > 1:
        assert [{params[name] for params in found} for name in ("letter", "sign")] == [set("abcd"), set("+-0")]
