"""The sites of layers together: which pairs a flow matches, and which features of a residual stream come from where."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import saematch as sm
from saematch.cli.main import main
from saematch.runs.plan import plan_pairs
from saematch.sources import Names, as_sites
from saes import made_up, write_npz
from test_cli import assert_refused, parsed, saematch

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


FLOW = [
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
        assert [chain.names.keys(pair) for pair in chain] == FLOW
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
    assert [tuple(pair) for pair in planned["pairs"]] == FLOW
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
