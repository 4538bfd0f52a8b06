"""The sites of layers together: which pairs a flow matches, and which features of a residual stream come from where."""

import csv
import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow.parquet
import pytest
import torch

import saematch as sm
from browser import findings_of_axe, needs_browser, page_at, rows_of, until
from saematch.analysis.flow import FLOW, GROUPS, find_predecessors
from saematch.analysis.predecessors import predecessors_of
from saematch.analysis.ranking import lasting
from saematch.cli.main import main
from saematch.evaluation.figures import draw_flow
from saematch.evaluation.figures.flow import draw_figure
from saematch.report import Contents, write_report
from saematch.runs.plan import plan_pairs
from saematch.sources import Names, as_sites
from saes import made_up, write_npz
from test_cli import assert_refused, parsed, saematch
from test_report import serving

F = 16  # features of every SAE; the stream is four times as wide
# By residual feature of layer 1: the directions that it is the sum of, (site, feature), and its cosine with that sum.
PLANTED = [
    *[([("residual", 0)], 0.95), ([("residual", 0)], 0.8), ([("residual", 2)], 0.9)],
    *[([("attention", 0)], 0.9), ([("attention", 1)], 0.75), ([("mlp", 0)], 0.9), ([("mlp", 1)], 0.9)],
    *[([("residual", 3), ("mlp", 2)], 1.0), ([("residual", 4), ("attention", 2)], 1.0)],
    *[([("attention", 3), ("mlp", 3)], 1.0), ([("residual", 5), ("attention", 4), ("mlp", 4)], 1.0)],
    *[([], 0.0)] * 5,
]


class World:
    """Layers 0 and 1 of a model whose residual stream adds up from known directions, all of which are orthogonal.

    Feature `place[k]` of the residual stream of layer 1 is `PLANTED[k]`: the sum of some directions of its
    predecessors, and of a direction of its own.
    """

    def __init__(self, seed=0):
        r = np.random.default_rng(seed)
        rows = np.linalg.qr(r.standard_normal((4 * F, 4 * F)))[0]
        self.rows = {site: rows[at * F : (at + 1) * F] for at, site in enumerate(("residual", "attention", "mlp"))}
        own, self.place = rows[3 * F :], r.permutation(F)
        later = np.empty((F, 4 * F))
        for k, (parts, cosine) in enumerate(PLANTED):
            total = sum((self.rows[site][feature] for site, feature in parts), np.zeros(4 * F))
            shared = total / np.sqrt(max(1, len(parts)))
            later[self.place[k]] = cosine * shared + np.sqrt(1 - cosine**2) * own[k]
        self.sites = {
            "residual": {0: _sae(self.rows["residual"]), 1: _sae(later)},
            "attention": {1: _sae(self.rows["attention"])},
            "mlp": {1: _sae(self.rows["mlp"])},
        }


def _sae(rows):
    """Return an SAE with these decoder rows, of lengths that cosines must not see, and an encoder that says nothing."""
    lengths = torch.linspace(0.5, 3, len(rows), dtype=torch.float64)[:, None]
    return made_up(len(rows), rows.shape[1], W_dec=torch.from_numpy(rows.copy()) * lengths)


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Write SAEs of three sites: residual streams of layers 7 to 9, MLPs of 8 and 9, and attention of 9."""
    home = tmp_path_factory.mktemp("sites")
    for site, layers in (("residual", (7, 8, 9)), ("mlp", (8, 9)), ("attention", (9,))):
        for layer in layers:
            write_npz(home / f"of_{site}" / f"layer_{layer}", made_up(20, seed=layer + len(site)))
    return home


def sources(home):
    return {site: home / f"of_{site}" for site in ("mlp", "attention", "residual")}


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """Write a run of the sites in `home`, with labels of a few features."""
    labels = {"features": [{"feature": 3, "tokens": ["May", "June"]}]}
    (home / "of_mlp" / "layer_8" / "labels.json").write_text(json.dumps(labels))
    run = tmp_path_factory.mktemp("flow") / "run"
    sm.match_layers(sources(home), run, pairs="flow")
    return run


PAIRS = [
    ("residual.7", "residual.8"),
    ("mlp.8", "residual.8"),
    ("residual.8", "residual.9"),
    ("attention.9", "residual.9"),
    ("mlp.9", "residual.9"),
]


def test_a_flow_matches_every_residual_stream_with_what_it_is_the_sum_of(home):
    given = [
        sources(home),
        sm.load_layers(sources(home)),
        {site: sm.load_layers(source) for site, source in sources(home).items()},
        {site: {layer: sm.load(f"{source}?layer={layer}") for layer in sm.load_layers(source)}
         for site, source in sources(home).items()},
    ]  # fmt: skip
    for sites in given:
        chain = sm.match_layers(sites, pairs="flow")
        assert [chain.names.keys(pair) for pair in chain] == PAIRS
        assert chain.certified
        assert (chain.names.axis, chain.options()["metric"], chain.options()["parts"]) == (
            "site",
            "cosine",
            ["decoder"],
        )
    a, b = (sm.load(f"{home}/of_{site}?layer=8") for site in ("mlp", "residual"))
    assert torch.equal(chain["mlp.8", "residual.8"].perm, sm.match(a, b, metric="cosine", parts=["decoder"]).perm)


def test_other_options_replace_those_of_a_flow(home):
    chain = sm.match_layers(sources(home), pairs="flow", metric="squared_distance", parts=["encoder"], fold="none")
    assert (chain.options()["parts"], chain.options()["fold"]) == (["encoder"], "none")


@pytest.mark.parametrize(
    ("names", "planned"),
    [
        (["residual.0", "residual.1"], [(0, 1)]),
        (["attention.0", "residual.0", "mlp.2", "residual.2"], [(0, 1), (2, 3)]),  # the stream before 2 is not known
        (["mlp.1", "residual.1", "attention.3", "mlp.3"], [(0, 1)]),  # nothing adds up to a stream after layer 3
    ],
)
def test_sites_that_are_missing_are_left_out(names, planned):
    assert plan_pairs(range(len(names)), pairs="flow", names=Names(tuple(names), "site")) == planned


def test_sites_are_in_the_order_of_the_model():
    names = ["residual.10", "mlp.9", "residual.9", "attention.10", "residual.8", "attention.9", "mlp.10"]
    saes = {name: made_up(seed=seed) for seed, name in enumerate(names)}
    ordered = as_sites(saes)
    assert ordered.names == (
        "residual.8", "attention.9", "mlp.9", "residual.9", "attention.10", "mlp.10", "residual.10",
    )  # fmt: skip
    for name in names:
        assert torch.equal(ordered[name].W_enc, saes[name].W_enc)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (
            {1: made_up(), 2: made_up()},
            "1, 2: these are not sites of layers; give a mapping of residual or attention or",
        ),
        ({"residual.1": made_up(), "mlp": made_up()}, "residual.1, mlp: these are not sites of layers"),
        ({"residual.01": made_up(), "mlp.1": made_up()}, "residual.01, mlp.1: these are not sites"),
        ({"residual": {"early": made_up()}}, "residual: its SAEs have names, early; give a mapping of layer numbers"),
        ({"mlp": {1: made_up()}, "attention": {1: made_up()}}, "no residual stream has a predecessor among these"),
        ({"residual": {1: made_up()}, "attention": {2: made_up()}}, "no residual stream has a predecessor"),
        ({}, "these are not sites of layers"),
    ],
)
def test_what_is_no_flow_is_refused(sites, message):
    with pytest.raises(sm.MatchError, match=message):
        sm.match_layers(sites, pairs="flow")


def test_a_flow_is_of_one_set_of_saes_and_of_named_ones(home):
    with pytest.raises(sm.MatchError, match='pairs="flow" is for one set of SAEs of the sites of layers'):
        sm.match_layers(sources(home), pairs="flow", against=sm.load_layers(sources(home)))
    with pytest.raises(sm.MatchError, match='pairs="flow" is for one set of SAEs of the sites of layers'):
        plan_pairs([1, 2], pairs="flow")


def test_heads_of_attention_and_streams_before_a_layer_are_refused():
    heads = made_up(writes=sm.Space("blocks.1.attn.hook_z", "attention"))
    with pytest.raises(sm.MatchError, match=r"hook_z, .* the heads of attention have another basis in every layer"):
        sm.match_layers({"residual": {1: made_up()}, "attention": {1: heads}}, pairs="flow")
    before = {layer: made_up(reads=sm.Space(f"blocks.{layer}.hook_resid_pre")) for layer in (1, 2)}
    with pytest.raises(
        sm.MatchError, match=r"residual.1 .* reads blocks.1.hook_resid_pre, .*; call it layer 0 in a map"
    ):
        sm.match_layers({"residual": before}, pairs="flow")
    after = {layer - 1: sae for layer, sae in before.items()}
    assert sm.match_layers({"residual": after}, pairs="flow").certified


def test_a_transcoder_is_an_mlp_by_what_it_writes():
    reads, writes = sm.Space("blocks.1.ln2.hook_normalized", "layer_norm"), sm.Space("blocks.1.hook_mlp_out")
    sites = {"residual": {1: made_up(16)}, "mlp": {1: made_up(16, seed=1, reads=reads, writes=writes)}}
    assert sm.match_layers(sites, pairs="flow").certified


def test_features_persist_within_the_residual_stream(home):
    chain = sm.match_layers(sources(home), pairs="flow")
    found = lasting(chain, 100, -1.0)
    assert {(one.layer, one.last, one.layers) for one in found} == {("residual.7", "residual.9", 3)}
    assert len(found) == 20


def test_heads_of_attention_are_compared_after_the_output_matrix_as_the_documentation_says(tmp_path):
    r = torch.Generator().manual_seed(0)
    output = torch.linalg.qr(torch.randn(12, 12, generator=r))[0][:, :8]  # of heads that are wider than the stream
    residual = made_up(8).to(torch.float32)
    heads = made_up(8, 12, W_dec=residual.W_dec.double() @ output.T.double())
    write_npz(tmp_path / "gemma-scope-2b-pt-att" / "layer_8", heads)
    source = tmp_path / "gemma-scope-2b-pt-att" / "layer_8"
    chain = sm.match_layers({"residual": {8: residual}, "attention": source}, pairs="flow", progress=lambda _: None)
    assert "every layer has a basis of its own" in chain.failures[0, 1]
    sae = sm.load(f"{source}?allow=attention")
    W_dec = sae.W_dec @ output
    attention = {8: replace(sae, W_enc=W_dec.T, W_dec=W_dec, b_dec=sae.b_dec @ output)}
    chain = sm.match_layers({"residual": {8: residual}, "attention": attention}, pairs="flow")
    assert chain["attention.8", "residual.8"].perm.tolist() == list(range(8))
    assert chain["attention.8", "residual.8"].cosine.min() > 0.999


def test_paths_lead_through_the_residual_stream(home):
    chain = sm.match_layers(sources(home), pairs="flow")
    residual = ["residual.7", "residual.8", "residual.9"]
    assert [chain.names.keys(pair) for pair in chain.steps()] == list(pairwise(residual))
    for name, feature in (("residual.8", 5), ("residual.9", 0)):
        path = chain.path(name, feature)
        assert [step.layer for step in path] == residual
        assert (name, feature) in [(step.layer, step.feature) for step in path]
    path = chain.path("mlp.8", 5)
    assert [step.layer for step in path] == ["mlp.8", "residual.8", "residual.9"]
    assert path[1].feature == int(chain["mlp.8", "residual.8"].perm[5])
    composed = chain.compose("residual.7", "residual.9")
    first, second = chain["residual.7", "residual.8"].perm, chain["residual.8", "residual.9"].perm
    assert torch.equal(composed.perm, second[first])


def test_a_flow_resumes_and_finds_its_saes_again(home, tmp_path):
    chain = sm.match_layers(sources(home), tmp_path / "run", pairs="flow")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["source"]["mlp.8"] == str(home / "of_mlp" / "layer_8" / "params.npz")
    pair = tmp_path / "run" / "pairs" / "1-3.safetensors"
    before = {path.name: path.read_bytes() for path in pair.parent.glob("*.safetensors")}
    next(iter(pair.parent.glob("*.json"))).unlink()
    events = []
    sm.match_layers(sources(home), tmp_path / "run", pairs="flow", progress=events.append)
    assert sum(event.stage == "done" for event in events) == 1
    assert {path.name: path.read_bytes() for path in pair.parent.glob("*.safetensors")} == before
    loaded = sm.Chain.load(tmp_path / "run")
    assert torch.equal(loaded.sae("mlp.9").W_enc, sm.load(f"{home}/of_mlp?layer=9").W_enc)
    shutil.copytree(home, tmp_path / "moved")
    moved = sm.Chain.load(tmp_path / "run", sources(tmp_path / "moved"))
    assert torch.equal(moved.sae("mlp.9").W_enc, loaded.sae("mlp.9").W_enc)
    assert loaded.names == chain.names


def test_sources_without_layer_numbers_keep_their_names(tmp_path):
    for site in ("residual", "mlp"):
        write_npz(tmp_path / site, made_up())
    assert sm.load_layers({site: tmp_path / site for site in ("residual", "mlp")}).names == ("residual", "mlp")


def test_the_command_line_takes_sites(home, tmp_path):
    asked = [f"{site}={source}" for site, source in sources(home).items()]
    planned = parsed(saematch("layers", *asked, "--pairs", "flow", "--dry-run", "--json"))
    assert [tuple(pair) for pair in planned["pairs"]] == PAIRS
    assert main(["layers", *asked, "--pairs", "flow", "-o", str(tmp_path / "run"), "--quiet"]) == 0
    (tmp_path / "sites.yaml").write_text("".join(f"{site}: {source}\n" for site, source in sources(home).items()))
    again = saematch("layers", tmp_path / "sites.yaml", "--pairs", "flow", "-o", tmp_path / "run")
    assert "5 pairs of SAEs, finished before." in again.stdout
    path = saematch(
        "path", tmp_path / "run", "--sae", "residual.8", "--feature", 3, "--inputs", tmp_path / "sites.yaml"
    )
    assert path.stdout.startswith("site ")
    assert_refused(saematch("layers", *asked, asked[0], "--pairs", "flow", "--dry-run"), "at most once")
    assert_refused(saematch("layers", f"moe={home}", asked[0], "--pairs", "flow", "--dry-run"), "moe=")
    assert_refused(
        saematch("layers", "sample?layer=8-9", "--pairs", "flow", "--dry-run"), "give each of residual=SOURCE"
    )
    saes = [home / f"of_{site}" / f"layer_{layer}" for site, layer in (("residual", 8), ("mlp", 8), ("residual", 7))]
    named = saematch(
        "layers", *saes, "--names", "residual.8,mlp.8,residual.7", "--pairs", "flow", "--dry-run", "--json"
    )
    assert [tuple(pair) for pair in parsed(named)["pairs"]] == PAIRS[:2]


# ---- Where features come from


@pytest.fixture(scope="module")
def planted(world):
    return sm.match_layers(world.sites, pairs="flow")


def cosines_of(k):
    """Return site -> the planted cosine of feature k with the feature of that site that it was made of."""
    parts, cosine = PLANTED[k]
    return {site: cosine / np.sqrt(len(parts)) for site, _ in parts}


def expected_group(k, least):
    cosines = cosines_of(k)
    passing = [site for site in ("residual", "attention", "mlp") if cosines.get(site, 0.0) >= least]
    return "+".join(passing) or "none"


@pytest.mark.parametrize("least", [0.3, 0.55, 0.6, 0.74, 0.85, 0.99])
def test_groups_are_those_that_were_planted(world, planted, least):
    assert planted.certified
    flow = find_predecessors(planted, least)
    (one,) = flow.layers
    groups = one.groups(least)
    assert [GROUPS[groups[world.place[k]]] for k in range(F)] == [expected_group(k, least) for k in range(F)]
    for by in ("nearest", "partner"):
        rows = flow.groups.where(layer=1, by=by)
        assert [row["group"] for row in rows] == list(GROUPS)
        assert [row["features"] for row in rows] == np.bincount(one.groups(least, by), minlength=8).tolist()
        assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_a_predecessor_is_the_nearest_feature_and_the_partner(world, planted):
    (one,) = find_predecessors(planted).layers
    for k, (parts, _) in enumerate(PLANTED):
        at = world.place[k]
        for site, feature in parts:
            assert one.nearest[site][at] == feature
            assert one.nearest_cosine[site][at] == pytest.approx(cosines_of(k)[site], abs=1e-6)
            # Features 0 and 1 have the same predecessor, and only the first of them can be its partner.
            if k == 1:
                assert one.partner[site][at] != feature
                assert one.cosine[site][at] < 0.5
            else:
                assert (one.partner[site][at], one.cosine[site][at]) == (feature, pytest.approx(cosines_of(k)[site]))


def test_the_nearest_feature_has_the_largest_cosine(run):
    chain = sm.Chain.load(run)
    for one in find_predecessors(chain).layers:
        for site, pair in one.pairs.items():
            earlier, later = (torch.nn.functional.normalize(chain.sae(number).W_dec.double()) for number in pair)
            best = (later @ earlier.T).max(dim=1)
            assert one.nearest[site].tolist() == best.indices.tolist()
            assert one.nearest_cosine[site].tolist() == pytest.approx(best.values.tolist(), abs=1e-14)


@pytest.mark.parametrize("left_out", ["residual", "attention", "mlp"])
def test_a_site_that_is_missing_has_no_predecessors(world, left_out):
    sites = {site: dict(layers) for site, layers in world.sites.items()}
    del sites[left_out][0 if left_out == "residual" else 1]
    if not sites[left_out]:
        del sites[left_out]
    flow = find_predecessors(sm.match_layers(sites, pairs="flow"), 0.55)
    (one,) = flow.layers
    groups = [GROUPS[code] for code in one.groups(0.55)]
    left = [[site for site in expected_group(k, 0.55).split("+") if site != left_out] for k in range(F)]
    assert [groups[world.place[k]] for k in range(F)] == ["+".join(sites) or "none" for sites in left]
    assert {row["sites"] for row in flow.groups.rows} == {
        "+".join(s for s in ("residual", "attention", "mlp") if s != left_out)
    }


def test_one_feature_has_the_predecessors_of_the_table(run):
    chain = sm.Chain.load(run)
    for one in find_predecessors(chain).layers:
        for feature in range(one.features):
            for found, (site, pair) in zip(predecessors_of(chain, one.layer, feature), one.pairs.items(), strict=True):
                assert found.site == chain.names.key(pair[0])
                assert (found.partner, found.nearest) == (one.partner[site][feature], one.nearest[site][feature])
                assert (found.cosine, found.nearest_cosine) == (
                    one.cosine[site][feature],
                    one.nearest_cosine[site][feature],
                )
    assert predecessors_of(chain, "residual.9", 3) == predecessors_of(chain, 9, 3)
    with pytest.raises(sm.MatchError, match=r"7 has no predecessors in this run; there are residual\.8, residual\.9"):
        predecessors_of(chain, 7, 3)
    with pytest.raises(sm.MatchError, match=r"feature 20 is not in residual\.8"):
        predecessors_of(chain, 8, 20)


def test_a_row_of_zeros_is_nearest_to_none():
    """All other cosines are below 0, so that the row of zeros is the cheapest under the cosine."""
    residual, mlp = {0: made_up(3, d=2), 1: made_up(3, d=2, seed=1)}, made_up(3, d=2, seed=2)
    residual[1].W_dec[:] = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 0.0]])
    mlp.W_dec[:] = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]])
    residual[0].W_dec[:] = 0
    flow = find_predecessors(sm.match_layers({"residual": residual, "mlp": {1: mlp}}, pairs="flow"), -1)
    (one,) = flow.layers
    assert one.nearest["mlp"][:2].tolist() == [2, 2]
    assert one.nearest_cosine["mlp"][0] == pytest.approx(-(0.5**0.5))
    assert np.isnan(one.nearest_cosine["mlp"][2])
    assert np.isnan(one.nearest_cosine["residual"]).all()
    for feature in range(2):
        assert predecessors_of(flow.chain, 1, feature)[1].nearest == one.nearest["mlp"][feature]


def test_more_features_than_partners_and_rows_without_a_direction():
    residual = {0: made_up(5), 1: made_up(9, seed=1)}  # F differs, and d is 8
    residual[1].W_dec[2] = 0
    flow = find_predecessors(sm.match_layers({"residual": residual, "mlp": {1: made_up(8, seed=2)}}, pairs="flow"), -1)
    (one,) = flow.layers
    assert (one.partner["residual"] >= 0).sum() == 5
    assert (one.partner["mlp"] >= 0).sum() == 8  # as many features as the stream is wide
    assert np.isnan(one.nearest_cosine["mlp"][2])
    assert predecessors_of(flow.chain, 1, 2)[1].nearest_cosine is None
    codes = one.groups(-1, "partner")
    assert [bool(code & 1) for code in codes] == (one.partner["residual"] >= 0).tolist()  # no cosine is none, not -1
    unmatched = [feature for feature in range(9) if one.partner["residual"][feature] < 0]
    assert [predecessors_of(flow.chain, 1, feature)[0].partner for feature in unmatched] == [None] * 4


def test_a_baseline_gives_each_feature_its_closest_partner(world):
    chain = sm.match_layers(world.sites, pairs="flow", method="nearest")
    (one,) = find_predecessors(chain, nearest=False).layers
    for site, pair in one.pairs.items():
        perm, _, cosine = chain.arrays(pair)
        for feature in range(F):
            sources = np.nonzero(perm == feature)[0]
            best = sources[cosine[sources].argmax()] if len(sources) else -1
            assert one.partner[site][feature] == best


def test_what_has_no_flow_is_refused(home):
    layers = {1: made_up(), 2: made_up(seed=1)}
    for chain in (sm.match_layers(layers), sm.match_layers(layers, against=layers)):
        with pytest.raises(
            sm.MatchError, match='no finished pair of a flow; match the sites of layers with pairs="flow"'
        ):
            find_predecessors(chain)
    with pytest.raises(sm.MatchError, match=r"least is 1\.5; give a cosine from -1 to 1"):
        find_predecessors(sm.match_layers(sources(home), pairs="flow"), 1.5)


def test_a_site_that_cannot_be_read_is_left_out_and_said_to_be(home, tmp_path):
    shutil.copytree(home, tmp_path / "saes")
    write_npz(tmp_path / "saes" / "of_mlp" / "layer_8", made_up(20), W_dec=np.full((20, 8), np.nan))
    asked = [f"{site}={source}" for site, source in sources(tmp_path / "saes").items()]
    assert saematch("layers", *asked, "--pairs", "flow", "-o", tmp_path / "run").returncode == 3
    shown = saematch("flow", tmp_path / "run", "--partners-only")
    assert shown.returncode == 3
    assert "The run is not complete" in shown.stdout
    groups = parsed(saematch("flow", tmp_path / "run", "--json"), 3)["groups"]
    assert {row["layer"]: row["sites"] for row in groups} == {8: "residual", 9: "residual+attention+mlp"}


def test_tables_are_those_of_the_features(run, tmp_path):
    chain = sm.Chain.load(run)
    flow = find_predecessors(chain, 0.4)
    flow.write(tmp_path)
    draw_flow(flow, tmp_path)
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "flow.csv", "flow.parquet", "flow_groups.csv", "flow_groups.parquet", "flow.png", "flow.svg",
    }  # fmt: skip
    with (tmp_path / "flow.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(FLOW.columns)
    assert [(int(row["layer"]), int(row["feature"])) for row in rows] == [(at, k) for at in (8, 9) for k in range(20)]
    columns = pyarrow.parquet.read_table(tmp_path / "flow.parquet").to_pydict()
    for one in flow.layers:
        start = 20 * (one.layer - 8)
        for k, row in enumerate(rows[start : start + 20]):
            assert row["nearest_group"] == GROUPS[one.groups(0.4)[k]] == columns["nearest_group"][start + k]
            assert float(row["mlp_cosine"]) == one.cosine["mlp"][k] == columns["mlp_cosine"][start + k]
            assert row["attention_partner"] == str(one.partner.get("attention", [-1] * 20)[k])
            assert int(row["residual_nearest"]) == one.nearest["residual"][k]
    without = find_predecessors(chain, 0.4, nearest=False)
    without.write(tmp_path / "partners")
    draw_flow(without, tmp_path / "partners")
    with (tmp_path / "partners" / "flow.csv").open(newline="") as file:
        assert {(row["mlp_nearest"], row["nearest_group"]) for row in csv.DictReader(file)} == {("-1", "")}


def test_the_figure_shows_every_group_in_a_colour_of_its_own(planted):
    flow = find_predecessors(planted, 0.55)
    figure = draw_figure(flow)
    present = {row["group"] for row in flow.groups.rows if row["features"]}
    (legend,) = figure.legends
    assert {text.get_text().replace(" ", "") for text in legend.get_texts()} == present
    assert len({patch.get_facecolor() for patch in legend.get_patches()}) == len(present) == len(GROUPS)
    for panel, by in zip(figure.axes, ("nearest", "partner"), strict=True):
        for bars in panel.containers:
            (row,) = flow.groups.where(by=by, group=bars.get_label().replace(" ", ""))
            assert [bar.get_height() for bar in bars] == pytest.approx([row["share"]])
        tops = [bar.get_y() + bar.get_height() for bars in panel.containers for bar in bars]
        assert max(tops) == pytest.approx(1)


def test_partners_need_no_saes_and_the_nearest_do(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["source"] = {name: f"{path}.moved" for name, path in record["source"].items()}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    chain = sm.Chain.load(tmp_path / "run")
    partners = find_predecessors(chain, 0.3, nearest=False)
    assert partners.groups.rows == find_predecessors(sm.Chain.load(run), 0.3).groups.where(by="partner")
    with pytest.raises(
        sm.MatchError, match="the SAEs of the run are needed, and are no longer where the run found them"
    ):
        find_predecessors(chain)


def test_the_command_says_where_features_come_from(run, home, tmp_path):
    flow = find_predecessors(sm.Chain.load(run), 0.4)
    shown = saematch("flow", run, "--least", 0.4, "-o", tmp_path / "out")
    assert shown.returncode == 0
    lines = [line.split() for line in shown.stdout.splitlines() if line.startswith(("8", "9"))]
    assert [(line[0], line[1]) for line in lines] == [
        ("8", "nearest"), ("8", "partner"), ("9", "nearest"), ("9", "partner"),
    ]  # fmt: skip
    assert (tmp_path / "out" / "figures" / "flow.png").is_file()
    content = parsed(saematch("flow", run, "--least", 0.4, "--json"))
    assert content["groups"] == flow.groups.rows
    only = parsed(saematch("flow", run, "--least", 0.4, "--partners-only", "--json"))
    assert only["groups"] == flow.groups.where(by="partner")
    feature = int(sm.Chain.load(run)["mlp.8", "residual.8"].perm[3])
    one = saematch("flow", run, "--layer", 8, "--feature", feature)
    assert re.search(r"^mlp\.8 +partner +3 .*May, June$", one.stdout, re.MULTILINE)
    found = parsed(saematch("flow", run, "--sae", "residual.8", "--feature", feature, "--json"))
    assert [row["site"] for row in found["predecessors"]] == ["residual.7", "mlp.8"]
    assert_refused(saematch("flow", run, "--layer", 8), "--layer and --feature name one feature together")
    write_npz(tmp_path / "layer_1", made_up()), write_npz(tmp_path / "layer_2", made_up(seed=1))
    sm.match_layers(sm.load_layers(tmp_path), tmp_path / "other")
    assert_refused(saematch("flow", tmp_path / "other"), 'match the sites of layers with --pairs "flow"')


# ---- The page of a flow


LISTS = ("Path through the SAEs", "Predecessors by site")


def bars(page, name):
    """Return the heights of the bars of a picture, from left to right, for each colour from the bottom to the top."""
    paths = "paths => paths.map(path => [path.getAttribute('fill'), path.getAttribute('d')])"
    found = {}
    for fill, d in page.eval_on_selector_all(f"#figure-{name} svg path", paths):
        bar = re.fullmatch(r"M([\d.]+) [\d.]+l[\d.]+ 0l0 -?([\d.]+)l-[\d.]+ 0Z", d)
        if bar and fill.startswith("#"):
            found.setdefault(fill, []).append(float(bar[2]))
    return found


@needs_browser
@pytest.mark.parametrize("kind", ["nearest", "partner"])
def test_the_page_shows_the_groups_of_every_layer(opened, world, kind, tmp_path):
    later = {site: {layer + 1: sae for layer, sae in layers.items()} for site, layers in World(1).sites.items()}
    sites = {site: later[site] | layers for site, layers in world.sites.items()}  # the streams after 0, 1 and 2
    chain = sm.match_layers(sites, pairs="flow")
    contents = Contents(chain, margins=True)
    write_report(contents, tmp_path / "page.html")
    groups = find_predecessors(chain, 0.7).groups
    shares = {group: [row["share"] for row in groups.where(by=kind, group=group)] for group in [*GROUPS[1:], "none"]}
    shares = {group.replace("+", " + "): of for group, of in shares.items() if any(of)}
    name = f"predecessors-{kind}"
    with page_at(opened, f"{(tmp_path / 'page.html').as_uri()}#view=pictures") as page:
        page.wait_for_selector(f"#figure-{name} svg")
        texts = page.eval_on_selector_all(f"#figure-{name} svg text", "texts => texts.map(text => text.textContent)")
        assert [text for text in texts if text in shares] == list(shares)  # the legend
        drawn = list(bars(page, name).values())
        whole = sum(heights[0] for heights in drawn)
        for heights, expected in zip(drawn, shares.values(), strict=True):
            assert [height / whole for height in heights] == pytest.approx(expected, abs=1e-3)
        # Points of different sites are not joined by lines.
        widths = page.eval_on_selector_all(
            "#figure-cost svg path[fill=none][stroke='#0072B2']",
            "paths => paths.map(path => path.getAttribute('stroke-width'))",
        )
        assert set(widths) <= {"0"}
        page.click(f"#figure-{name} >> text=Numbers")
        heads = page.eval_on_selector_all(f"#figure-{name} th", "heads => heads.map(head => head.innerText)")
        assert {head.split(", cosine ≥ ")[1] for head in heads[1:]} == {"0.5", "0.7", "0.9"}
        for row, layer in zip(rows_of(page, f"#figure-{name}"), (1, 2), strict=True):
            assert row[0] == str(layer)
            for head, cell in zip(heads[1:], row[1:], strict=True):
                group, least = head.split(", cosine ≥ ")
                of_least = find_predecessors(chain, float(least)).groups if least != "0.7" else groups
                (found,) = of_least.where(layer=layer, by=kind, group=group.replace(" ", ""))
                assert float(cell) == pytest.approx(found["share"], rel=1e-3)
        assert findings_of_axe(page) == []


@needs_browser
@pytest.mark.parametrize("served", [False, True])
def test_the_page_lists_the_partners_of_a_feature_in_every_site(opened, run, served, tmp_path):
    chain = sm.Chain.load(run)
    contents = Contents(chain)
    write_report(contents, tmp_path / "page.html")
    feature = int(chain["mlp.8", "residual.8"].perm[3])
    node = f"#view=explorer&layer={chain.names.number('residual.8')}&feature={feature}"
    with serving(contents) as running:
        address = running.address if served else (tmp_path / "page.html").as_uri()
        with page_at(opened, address + node) as page:
            page.wait_for_selector("#feature:not([hidden])")
            path, before = (rows_of(page, f"#feature [aria-label='{name}']") for name in LISTS)
            assert [(row[0], int(row[1])) for row in path] == [
                (step.layer, step.feature) for step in chain.path("residual.8", feature)
            ]
            expected = predecessors_of(chain, 8, feature)
            assert [(row[0], int(row[1])) for row in before] == [(one.site, one.partner) for one in expected]
            assert before[1][2] == "May, June"
            assert "The path follows the residual stream from residual.7 to residual.9." in page.inner_text("#feature")
            assert findings_of_axe(page) == []
            page.click("#feature [aria-label='Predecessors by site'] tbody tr:nth-child(2) button")
            until(page, "document.getElementById('feature-title')?.innerText === 'mlp.8, feature 3'")
            path, before = (rows_of(page, f"#feature [aria-label='{name}']") for name in LISTS)
            assert [row[0] for row in path] == ["mlp.8", "residual.8", "residual.9"]
            assert before == []


def test_a_run_that_is_no_flow_has_no_predecessors_on_its_page(home):
    named = sm.match_layers({"a": made_up(), "b": made_up(seed=1)})
    layers = sm.match_layers({1: made_up(), 2: made_up(seed=1)})
    assert [Contents(chain).summary()["flow"] for chain in (named, layers)] == [None, None]
    sites = {"mlp.1": made_up(), "residual.1": made_up(seed=1), "residual.2": made_up(seed=2)}
    backwards = sm.match_layers(sites, pairs=[("mlp.1", "residual.2")])
    assert Contents(backwards).summary()["flow"] is None
    some = Contents(sm.match_layers(sources(home), pairs="flow")).summary()["flow"]
    assert (some["layers"], some["pairs"]) == ([8, 9], ["0-2", "1-2", "2-5", "3-5", "4-5"])
    assert {row["by"] for row in some["shares"]} == {"partner"}
