"""The package: its files, the cost of importing it, which package may import which, and the example of the README."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import saematch as sm

ROOT = Path(__file__).parent.parent
ROOTS = {"saematch": ROOT / "engine", "saematch/kernels": ROOT / "kernels"}


def python(code, **options):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"  # built from a copy: setuptools leaves its build folder behind
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_exactly_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in ROOTS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == tree
    assert "saematch/sample/layer_13/params.npz" in held


def test_an_installed_wheel_runs(wheel, tmp_path):
    install = ["pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target", str(tmp_path)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import saematch as sm; print(sm.__file__)"
    code += "; print(len(sm.load_layers('sample')))"
    assert python(code, cwd=tmp_path).split() == [str(tmp_path / "saematch" / "__init__.py"), "6"]


def test_import_is_light_and_touches_no_global():
    code = """
import sys, os, warnings
before = dict(os.environ), list(warnings.filters), sys.getrecursionlimit()
import saematch
assert (dict(os.environ), list(warnings.filters), sys.getrecursionlimit()) == before
assert not {"torch", "triton", "numba", "numpy", "lap"} & set(sys.modules)
import torch
state = torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state()
for name in saematch.__all__:
    getattr(saematch, name)
after = torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state()
assert state[:3] == after[:3] and torch.equal(state[3], after[3])
assert "triton" not in sys.modules
"""
    python(code)


@pytest.mark.parametrize("arguments", [["info", "sample"], ["layers", "sample", "--dry-run"], ["env"]])
def test_commands_that_compute_nothing_import_no_compiler(arguments):
    """They import no compiler of torch, which takes longer than torch itself; `info` imports no numba and no triton."""
    code = f"""
import sys
from saematch.cli.main import main
assert main({arguments!r}) == 0
assert not {{"torch._dynamo", "torch._inductor", "sympy"}} & set(sys.modules)
assert not {{"numba", "triton"}} & set(sys.modules) or {arguments[0] != "info"}
"""
    python(code)


def test_a_finished_run_is_looked_at_without_torch(tmp_path):
    """Importing torch takes seconds, which are most of the time that these commands would take."""
    sm.match_layers(sm.load_layers("sample?layer=8-9"), tmp_path / "run")
    sm.match_layers({"residual": "sample?layer=8-9"}, tmp_path / "flow", pairs="flow")
    code = f"""
import sys
from saematch.cli.main import main
run = {str(tmp_path / "run")!r}
for command in (["show", run, "--limits"], ["top", run], ["top", run, "--alike", "3"],
                ["flow", {str(tmp_path / "flow")!r}, "--partners-only"]):
    assert main(command) == 0
assert main(["path", run, "--layer", "8", "--feature", "384"]) == 0
assert not {{"torch", "numba", "triton", "lap"}} & set(sys.modules)
"""
    assert "Module, Syn, Ex, Dist, Gn" in python(code)


def test_public_names_are_there_and_documented():
    assert set(sm.__all__) <= set(dir(sm))
    for name in sm.__all__:
        assert getattr(sm, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sm.nonsense


def test_version_has_one_value():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == sm.__version__
    assert f"version: {sm.__version__}\n" in (ROOT / "CITATION.cff").read_text()


PACKAGES = [
    "lazy", "text", "errors", "options", "resources", "numeric", "storage", "sae", "sources", "activations", "cost",
    "assignment", "matching", "runs", "analysis", "evaluation", "dictionaries", "report", "cli", "__main__",
]  # fmt: skip


def test_a_package_imports_only_those_before_it():
    """Data flows one way: source -> SAE -> feature rows -> cost passes -> assignment -> matching -> run -> analysis."""
    engine = ROOTS["saematch"]
    assert {path.stem for path in engine.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} == {
        *PACKAGES,
        "__init__",
    }
    for path in engine.rglob("*.py"):
        package = path.relative_to(engine).parts[0].removesuffix(".py")
        if package == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("saematch.") and not module.startswith("saematch.kernels"):
                known = PACKAGES.index(module.split(".")[1]) <= PACKAGES.index(package)
                assert known, f"{path} imports {module}"


def test_kernels_know_nothing_of_the_engine_but_its_errors_and_its_checks_of_numbers():
    allowed = {"saematch.errors", "saematch.numeric.numbers"}
    for path in ROOTS["saematch/kernels"].rglob("*.py"):
        known = re.findall(r"^\s*from (saematch[\w.]*) import", path.read_text(), re.MULTILINE)
        assert {name for name in known if not name.startswith("saematch.kernels")} <= allowed, path


def test_only_kernels_import_triton():
    for path in ROOTS["saematch"].rglob("*.py"):
        assert not re.search(r"^\s*(import|from) triton", path.read_text(), re.MULTILINE), path


def test_the_readmes_example_prints_what_it_says(tmp_path):
    code, output = re.search(
        r"```python\n(.*?)```\s+prints\s+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    ).groups()
    assert python(code, cwd=tmp_path) == output


def test_the_table_of_tests_names_every_file():
    table = (ROOT / "tests" / "README.md").read_text()
    for path in (ROOT / "tests").iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in table, path.name
