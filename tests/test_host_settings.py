"""The default device and precision of the calling program change no result, and move no tensor."""

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import saematch as sm
from language_models import documents, write_language_model
from planted import World
from saematch.analysis.findings import Findings
from saematch.evaluation import LanguageModel, StoredActivations, Texts, evaluate
from saematch.report.contents import Contents
from saematch.report.page import write_report
from saes import VARIANTS, drawn

pytestmark = pytest.mark.through_passes

ROOT = Path(__file__).parent.parent
# What `torch.set_default_device` redirects.
FACTORIES = {
    "arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty", "empty_permuted",
    "empty_quantized", "empty_strided", "eye", "from_file", "full", "hamming_window", "hann_window", "kaiser_window",
    "linspace", "logspace", "nested_tensor", "normal", "ones", "rand", "randint", "randn", "randperm", "range",
    "scalar_tensor", "sparse_bsc_tensor", "sparse_bsr_tensor", "sparse_compressed_tensor", "sparse_coo_tensor",
    "sparse_csc_tensor", "sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "zeros", "Generator",
}  # fmt: skip
SETTINGS = {
    "meta": lambda: torch.set_default_device("meta"),
    "a GPU that is not there": lambda: torch.set_default_device("cuda:7"),
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
}
each_setting = pytest.mark.parametrize("setting", SETTINGS)


@pytest.fixture
def under():
    """Run a function under a setting of the calling program, and without it."""

    def both(setting, run):
        expected = run("as it is")
        SETTINGS[setting]()
        try:
            return run(setting), expected
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)

    return both


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert (found[name].device, found[name].dtype) == (value.device, value.dtype), name
            assert torch.equal(found[name], value), name
        else:
            np.testing.assert_equal(found[name], value, name)


def factories_without_device(source):
    """Return the calls in a module that make a tensor on the default device."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            yield from (f"from torch import {each.name}" for each in node.names if each.name in FACTORIES)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, where = node.func.attr, ast.unparse(node.func.value)
            if name in FACTORIES and where == "torch" and not any(each.arg == "device" for each in node.keywords):
                yield ast.unparse(node)


@pytest.mark.parametrize("folder", ["engine", "kernels"])
def test_every_tensor_names_its_device(folder):
    modules = sorted((ROOT / folder).rglob("*.py"))
    found = {path.name: list(factories_without_device(path.read_text())) for path in modules}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_a_factory_without_its_device_is_found():
    source = "import torch\nfrom torch import ones\ntorch.zeros(3, dtype=int)\ntorch.empty(2, device='cpu')"
    assert list(factories_without_device(source)) == ["from torch import ones", "torch.zeros(3, dtype=int)"]


@each_setting
def test_saes_of_every_family_are_read_alike(under, setting, tmp_path):
    sources = {}
    for (number, name), dtype in itertools.product(enumerate(VARIANTS), (torch.float32, torch.float16)):
        folder = tmp_path / f"{number}-{dtype}"
        sources[name, dtype] = f"{folder}{VARIANTS[name](folder, drawn(8, 8, dtype)).options}"

    def read(_):
        saes = {key: sm.load(source) for key, source in sources.items()}
        return {(*key, name): each for key, sae in saes.items() for name, each in sae.tensors().items()}

    assert_same(*under(setting, read))


@each_setting
def test_an_sae_computes_alike(under, setting, tmp_path):
    sae, x = sm.load("sample?layer=8"), np.random.default_rng(0).standard_normal((20, 576)).astype(np.float32)

    def use(name):
        activations = torch.from_numpy(x)
        codes = sae.encode(activations)
        folded = sae.fold([2.0] * sae.F).to(torch.float64)
        sae.save(tmp_path / name / "saelens")
        sae.save(tmp_path / name / "gemma", "gemma_scope")
        saved = {
            f"{which} {part}": each
            for which in ("saelens", "gemma")
            for part, each in sm.load(tmp_path / name / which).tensors().items()
        }
        return {"codes": codes, "decoded": sae.decode(codes), **folded.tensors(), **saved}

    assert_same(*under(setting, use))


@each_setting
def test_a_pair_is_matched_alike(under, setting, tmp_path):
    r = np.random.default_rng(0)
    x, y = r.standard_normal((300, 12)), r.standard_normal((260, 12))
    cost = r.random((40, 50))

    def match(name):
        found = {}
        for kind, m in {
            "rows": sm.assign(x, y),
            "cost": sm.assign(cost=cost),
            "partial": sm.assign(x, y, max_cost=8.0),
            "greedy": sm.assign(x, y, method="greedy"),
            "graded": sm.certify(cost=cost, perm=list(range(40))),
        }.items():
            m.save(tmp_path / f"{name}-{kind}.safetensors")
            again = sm.Matching.load(tmp_path / f"{name}-{kind}.safetensors")
            some = [int(i) for i in np.nonzero(m.perm.numpy() >= 0)[0][:5]]
            codes = torch.from_numpy(r.random((3, len(m.perm)))) * 0 + 1
            here = {
                "perm": m.perm,
                "cost": m.pair_cost,
                "prices": m.prices,
                "again": again.perm,
                "status": m.status,
                "inverse": m.inverse().perm,
                "carried": m.carry(codes),
                "targets": m.unmatched_targets,
            }
            if kind in ("rows", "cost", "partial"):
                here |= {"margin": m.margins().bound, "tied": m.margins().tied, "exact": m.margins().exact(some)}
            found |= {f"{kind} {part}": each for part, each in here.items()}
        return found

    assert_same(*under(setting, match))


@each_setting
def test_a_run_is_evaluated_and_reported_alike(under, setting, tmp_path):
    world = World()
    activations = StoredActivations(world.write_activations(tmp_path / "activations"))

    def whole(name):
        layers, folder = {0: world.a, 1: world.b}, tmp_path / name
        sm.match_layers(layers, folder / "run")
        chain = sm.Chain.load(folder / "run", inputs=layers)
        tables = evaluate(chain, folder / "out", activations=activations).tables
        steps = [(step.layer, step.feature, step.cost) for step in sm.Chain.load(folder / "run").path(0, 3)]
        write_report(Contents(chain), folder / "page.html")
        measured = {f"table {kind}": table.rows for kind, table in tables.items()}
        return {"path": steps, "page": Contents(chain).pair((0, 1)), **measured, **Findings(chain).columns((0, 1))}

    assert_same(*under(setting, whole))


@each_setting
def test_a_language_model_is_run_alike(under, setting, tmp_path):
    model, texts = str(write_language_model(tmp_path / "model")), Texts(documents(), "mark")

    def states(_):
        language_model = LanguageModel(model, texts, batch=2)
        batches = [each for (each,) in language_model.batches([1])]
        kept = np.ones(sum(map(len, batches)), dtype=bool)
        losses = [
            [clean, *replaced]
            for _, _, clean, replaced in language_model.losses((1, 2), kept, lambda x, y: iter([x, y]))
        ]
        return {"losses": losses, **{f"batch {n}": batch for n, batch in enumerate(batches)}}

    assert_same(*under(setting, states))
