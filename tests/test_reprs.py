"""What public objects print in a terminal and in a notebook, and tables of pandas."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest

import saematch as sm
from saematch.evaluation import StoredActivations, TokenOverlap, evaluate
from saematch.matching.frames import columns_of
from saematch.report import Contents
from saes import made_up, write_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("home") / "model")
    sm.match_layers(sm.load_layers(folder), folder.parent / "run", max_cost=14.0)
    np.save(folder.parent / "layer_3.npy", np.zeros((6, 8)))
    return folder.parent


@pytest.fixture(scope="module")
def objects(home):
    layers, chain = sm.load_layers(home / "model"), sm.Chain.load(home / "run")
    events = []
    sm.match_layers({1: made_up(seed=1), 2: made_up(seed=2)}, progress=events.append)
    evaluation = evaluate(chain, home / "evaluation", distance=1)
    return {
        "SAE(F=12, d=8, activation='jumprelu', source=": layers[3],
        "Layers(": layers,
        "StoredSAE(": layers.handles[3],
        "Chain(3 of 3 pairs of 4 layers matched, certified=True, folder=": chain,
        "Chain(1 of 1 pairs of 2 layers matched, certified=True)": sm.Chain({(0, 1): chain[3, 4]}),
        f"Matching(12 -> 12 features, {chain[3, 4].matched} matched": chain[3, 4],
        "Margins(12 features, 12 exact, 0 tied, lowest ": chain[3, 4].margins(),
        "Step(layer=": chain.path(3, 0)[0],
        "Progress(stage='done'": events[-1],
        "Evaluation(": evaluation,
        "Table('mse', ": evaluation.tables["mse"],
        "StoredActivations(": StoredActivations(home, document_length=3),
        "TokenOverlap(": TokenOverlap(),
        "Contents(Chain(": Contents(chain),
    }


def test_public_objects_print_one_short_line(objects):
    for start, value in objects.items():
        shown = repr(value)
        assert shown.startswith(start)
        assert len(shown) < 250 + len(str(getattr(value, "source", "")))
        assert "\n" not in shown
        assert " at 0x" not in shown


def test_notebooks_show_tables(objects):
    shown = [value._repr_html_() for value in objects.values() if hasattr(value, "_repr_html_")]
    assert len(shown) == 7
    for html in shown:
        page = ElementTree.fromstring(f"<div>{html}</div>")  # well-formed, with everything escaped
        head, *rows = page.find("table").findall("tr")
        assert rows
        assert {len(row) for row in rows} == {len(head)}


def test_without_pandas_the_message_says_what_to_install(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    chain = sm.Chain.load(home / "run")
    for value in (chain, chain[3, 4]):
        with pytest.raises(sm.MatchError, match="needs the package pandas: pip install pandas"):
            value.to_pandas()


def test_columns_have_nothing_for_unmatched_features(home):
    matching = sm.Chain.load(home / "run")[3, 4]
    columns = columns_of(matching.perm.numpy(), matching.pair_cost.numpy(), matching.cosine.numpy())
    unmatched = matching.perm.numpy() < 0
    assert 0 < unmatched.sum() < 12
    for name in ("partner", "cost", "cosine"):
        assert (np.isnan(columns[name]) == unmatched).all()
    assert (columns["partner"][~unmatched] == matching.perm.numpy()[~unmatched]).all()


def test_tables_of_pandas(home):
    chain = sm.Chain.load(home / "run")
    table = chain.to_pandas()
    assert list(table) == ["source", "target", "feature", "partner", "cost", "cosine", "label", "partner_label"]
    assert len(table) == 36
    rows = table[(table.source == 3) & table.partner.notna()]
    perm = chain[3, 4].perm
    assert rows.partner.tolist() == perm[perm >= 0].tolist()
    assert rows.cost.sum() == pytest.approx(chain[3, 4].cost)
    assert chain[3, 4].to_pandas().partner.isna().sum() == 12 - chain[3, 4].matched
