"""The columns of a run, exported and read back by other programs."""

import csv
import json
import os
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pytest
import torch

import saematch as sm
from saematch.analysis.export import EXPORT_COLUMNS, export
from saematch.analysis.findings import DEFINITIONS, Findings
from saematch.cli.main import main
from saematch.matching.solver import Solver
from saematch.report import Contents, write_report
from saematch.sae.features import feature_rows
from saes import made_up, write_model, write_npz

HOSTILE = [
    "<script>alert(1)</script>\"'",
    "a,b\nc",
    "\u202eright to left",
    "\x00\x07\ufffe",
    "=1+1",
    "🐈",
    "x" * 10_000,
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write a run of three layers of 12 features, one of which has hostile labels."""
    home = tmp_path_factory.mktemp("export")
    layers = write_model(home / "saes", layers=(1, 2, 3))
    rows = [{"feature": number, "tokens": [text]} for number, text in enumerate(HOSTILE)]
    (layers / "layer_02" / "labels.json").write_text(json.dumps({"features": rows}))
    sm.match_layers(sm.load_layers(layers), home / "run")
    return home / "run"


def exported(run, path, *more):
    assert main(["export", str(run), "-o", str(path), *more]) == 0
    return path


def test_findings_add_up(run):
    chain = sm.Chain.load(run)
    found = Findings(chain, margins=True).columns((1, 2))
    assert set(found) == set(DEFINITIONS)
    np.testing.assert_allclose(found["encoder"] + found["bias"] + found["decoder"], found["cost"], rtol=1e-12)
    a, b = chain.sae(1), chain.sae(2)
    perm = chain[1, 2].perm
    cosines = torch.nn.functional.cosine_similarity(a.W_dec.double(), b.W_dec.double()[perm])
    np.testing.assert_allclose(found["cosine"], cosines, rtol=1e-12)
    rows = [feature_rows(sae) for sae in (a, b)]
    costs = ((rows[0][:, None] - rows[1][None]) ** 2).sum(axis=2)
    costs[np.arange(12), perm] = np.inf
    np.testing.assert_array_equal(found["runner_up"], costs.argmin(axis=1))
    np.testing.assert_allclose(found["runner_up_cost"], costs.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(perm.numpy()[found["runner_up_taken_by"]], found["runner_up"])
    np.testing.assert_array_equal(found["margin"], chain[1, 2].margins().bound)
    np.testing.assert_array_equal(found["margin_exact"], chain[1, 2].margins().is_exact)


def test_findings_are_computed_as_the_run_was(run, monkeypatch):
    chain = sm.match_layers(sm.Chain.load(run).inputs(), pairs=[(1, 2)], device="cpu:0")
    used, make_cost = [], Solver.make_cost
    monkeypatch.setattr(Solver, "make_cost", lambda self, problem: used.append(self.device) or make_cost(self, problem))
    Findings(chain, margins=True).columns((1, 2))
    assert used == ["cpu:0"] * 2  # for margins and for runners-up


def test_csv_and_parquet_hold_the_same(run, tmp_path):
    table = pyarrow.parquet.read_table(exported(run, tmp_path / "x.parquet", "--margins"))
    assert table.column_names == list(EXPORT_COLUMNS)
    assert table.schema.field("cosine").metadata[b"about"].decode() == EXPORT_COLUMNS["cosine"]
    assert json.loads(table.schema.metadata[b"saematch"])["run"]["options"]["fold"] == "threshold"
    with exported(run, tmp_path / "x.csv", "--margins").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = table.to_pydict()
    assert len(rows) == table.num_rows == 24
    for name in EXPORT_COLUMNS:
        kind = str if "label" in name else float
        assert [kind(row[name]) if row[name] else None for row in rows] == columns[name]
    assert columns["label"][12 : 12 + len(HOSTILE)] == HOSTILE
    assert set(columns["label"][:12]) == {None}


def test_json_says_what_it_is_and_where_from(run, tmp_path):
    found = json.loads(exported(run, tmp_path / "x.json").read_text())
    assert found["schema"] == 1
    assert found["columns"] == EXPORT_COLUMNS
    assert found["run"]["source"].endswith("saes")
    assert found["inputs"]["source 1"]["sha256"].keys() == {"params.npz"}
    assert [(pair["source"], pair["target"]) for pair in found["pairs"]] == [(1, 2), (2, 3)]
    assert found["pairs"][0]["partner"] == sm.Chain.load(run)[1, 2].perm.tolist()
    assert found["pairs"][0]["margin"] == [None] * 12  # it was not asked for


def test_graphml_is_well_formed_and_keeps_to_its_limits(run, tmp_path):
    costs = sm.Chain.load(run)[1, 2].pair_cost.tolist() + sm.Chain.load(run)[2, 3].pair_cost.tolist()
    limit = sorted(costs)[5]
    path = exported(run, tmp_path / "x.graphml", "--max-cost", repr(limit))
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.parse(path).getroot()
    edges = root.findall(".//g:edge", space)
    nodes = {node.get("id"): node for node in root.findall(".//g:node", space)}
    assert sorted(float(edge.find("g:data[@key='cost']", space).text) for edge in edges) == sorted(costs)[:6]
    assert {end for edge in edges for end in (edge.get("source"), edge.get("target"))} == set(nodes)
    everyone = ElementTree.parse(exported(run, tmp_path / "all.graphml")).getroot()
    labels = {
        node.get("id"): node.findtext("g:data[@key='label']", None, space)
        for node in everyone.findall(".//g:node", space)
    }
    assert labels["0:2:0"] == HOSTILE[0]
    assert labels["0:2:3"] == "\ufffd\ufffd\ufffd"  # XML has no such characters
    assert labels["0:1:0"] is None


def test_features_that_are_not_alike_are_left_out(run, tmp_path):
    cosines = pyarrow.parquet.read_table(exported(run, tmp_path / "x.parquet")).to_pydict()["cosine"]
    kept = pyarrow.parquet.read_table(exported(run, tmp_path / "y.parquet", "--min-cosine", "0.3")).to_pydict()[
        "cosine"
    ]
    assert kept == [cosine for cosine in cosines if cosine >= 0.3]
    assert 0 < len(kept) < len(cosines)


def test_without_the_saes_partners_and_costs_are_exported(tmp_path, capsys):
    saes = write_model(tmp_path / "saes", layers=(1, 2))
    sm.match_layers(sm.load_layers(saes), tmp_path / "run")
    saes.rename(tmp_path / "moved")
    table = pyarrow.parquet.read_table(exported(tmp_path / "run", tmp_path / "x.parquet")).to_pydict()
    assert table["partner"] == sm.Chain.load(tmp_path / "run")[1, 2].perm.tolist()
    assert table["cosine"] == [None] * 12
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "y.csv"), "--min-cosine", "0.5"]) == 2
    assert "cosines need the SAEs of the run, which cannot be read" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "y.csv"), "--margins"]) == 2
    assert "margins need the SAEs of the run, which cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "y.csv").exists()
    assert (
        main(
            [
                "export",
                str(tmp_path / "run"),
                "-o",
                str(tmp_path / "y.csv"),
                "--min-cosine",
                "0.5",
                "--inputs",
                str(tmp_path / "moved"),
            ]
        )
        == 0
    )


def test_features_without_a_partner_and_two_sets(tmp_path):
    for name, F, seed in (("a", 12, 1), ("b", 9, 2)):
        write_npz(tmp_path / name / "layer_1", made_up(F, seed=seed))
    sm.match_layers(sm.load_layers(tmp_path / "a"), tmp_path / "run", against=sm.load_layers(tmp_path / "b"))
    table = pyarrow.parquet.read_table(exported(tmp_path / "run", tmp_path / "x.parquet", "--margins")).to_pydict()
    taken = [row for row in zip(table["runner_up"], table["runner_up_taken_by"], strict=True) if row[1] >= 0]
    assert len(taken) == 12  # all nine targets have a partner
    assert all(table["partner"][holder] == runner_up for runner_up, holder in taken)
    alone = [at for at, partner in enumerate(table["partner"]) if partner < 0]
    assert len(alone) == 3
    assert [table["cosine"][at] for at in alone] == [None] * 3
    root = ElementTree.parse(exported(tmp_path / "run", tmp_path / "x.graphml")).getroot()
    ends = [edge.get("target") for edge in root.iter("{http://graphml.graphdrawing.org/xmlns}edge")]
    assert len(ends) == 9
    assert all(end.startswith("1:1:") for end in ends)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.xlsx"], "format 'xlsx' is not known; choose one of csv, parquet, json, graphml"),
        (["-o", "nowhere/x.csv"], "cannot be written"),
        (["-o", "taken.csv"], "exists already"),
    ],
)
def test_bad_usage_is_refused(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.csv").touch()
    assert main(["export", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def writers(run):
    """Return every function that writes one file, by its name."""
    chain = sm.Chain.load(run)
    return {
        "x.csv": lambda path: export(chain, path, "csv"),
        "x.parquet": lambda path: export(chain, path, "parquet"),
        "page.html": lambda path: write_report(Contents(chain), path),
        "m.safetensors": chain[1, 2].save,
        "sae_weights.safetensors": lambda path: made_up().save(path.parent, overwrite=True),
        "params.npz": lambda path: made_up().save(path.parent, "gemma_scope", overwrite=True),
    }


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_is_not_replaced_by_a_file(run, tmp_path, link, capsys):
    for name, write in writers(run).items():
        pipe = tmp_path / ("pipe" if link else name)
        os.mkfifo(pipe)
        if link:
            (tmp_path / name).symlink_to(pipe)
        with pytest.raises(sm.MatchError, match=f"{name}: cannot be written .it is not a regular file"):
            write(tmp_path / name)
        assert pipe.is_fifo()
        assert (tmp_path / name).is_symlink() == link
        pipe.unlink()
    os.mkfifo(tmp_path / "pipe.csv")
    for command in ("export", "report"):
        overwrite = ["--overwrite"] if command == "export" else []
        assert main([command, str(run), "-o", str(tmp_path / "pipe.csv"), *overwrite]) == 2
        assert "it is not a regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe.csv").is_fifo()


def test_a_link_stays_and_its_file_is_replaced(run, tmp_path):
    for name, write in writers(run).items():
        folder, link, other = (tmp_path / f"{name}-{each}" for each in ("there", "links", "plain"))
        for each in (folder, link, other):
            each.mkdir()
        for before in (b"old", None):  # and a link that leads to no file yet
            target = folder / "real"
            target.unlink(missing_ok=True)
            if before:
                target.write_bytes(before)
            (link / name).unlink(missing_ok=True)
            (link / name).symlink_to(target)
            write(link / name)
            write(other / name)
            assert (link / name).is_symlink()
            assert target.stat().st_size == (other / name).stat().st_size > 3
            assert [path.name for path in folder.iterdir()] == ["real"]
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(sm.MatchError, match=r"loop\.csv: cannot be written"):
        export(sm.Chain.load(run), tmp_path / "loop.csv", "csv")
