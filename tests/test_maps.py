"""Maps into the basis of another model: SAEs that are written there, and maps that are fitted to activations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import saematch as sm
from saematch.activations import procrustes
from saematch.cli.main import main
from saematch.errors import MatchError
from saes import made_up
from tolerance import FOLD


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def orthogonal(d, other=None, seed=0):
    """Return a random matrix `(d, other)` with orthonormal rows, or with orthonormal columns if it has fewer."""
    other = other or d
    turn = torch.linalg.qr(normal(max(d, other), max(d, other), seed=seed)).Q
    return turn[:d, :other]


def some_maps(d):
    """Return maps of every kind from activations of width `d`, by name."""
    means = normal(d, seed=3), normal(d, seed=4)
    wide = d + 3
    return {
        "orthogonal": sm.Map(orthogonal(d), *means),
        "linear": sm.Map(normal(d, d), *means),
        "without means": sm.Map(normal(d, d)),
        "wider": sm.Map(normal(d, wide), means[0], normal(wide, seed=5)),
        "orthogonal, wider": sm.Map(orthogonal(d, wide), means[0], normal(wide, seed=5)),
    }


# ---- SAEs in another basis


@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("name", some_maps(8))
def test_a_mapped_sae_has_the_same_codes_on_mapped_activations(activation, name):
    sae, map, x = made_up(activation=activation), some_maps(8)[name], 3 * normal(50, 8, seed=9)
    mapped, codes = sae.mapped(map), sae.encode(x)
    assert 0.05 < (codes != 0).double().mean() < 0.95
    torch.testing.assert_close(mapped.encode(map.apply(x)), codes, rtol=0, atol=1e-11)
    torch.testing.assert_close(mapped.decode(codes), map.apply(sae.decode(codes)), rtol=0, atol=1e-11)
    assert mapped.threshold is sae.threshold
    assert mapped.k == sae.k


def test_mapped_weights_follow_their_formulas():
    sae, map = made_up(), some_maps(8)["linear"]
    M, a, b = (tensor.numpy() for tensor in (map.matrix, map.mean_a, map.mean_b))
    mapped, inverse = sae.mapped(map), np.linalg.inv(M)
    encoder = inverse @ sae.W_enc.numpy()
    np.testing.assert_allclose(mapped.W_enc, encoder, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mapped.W_dec, sae.W_dec.numpy() @ M, rtol=0, atol=1e-13)
    np.testing.assert_allclose(mapped.b_dec, (sae.b_dec.numpy() - a) @ M + b, rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        mapped.b_enc, sae.b_enc.numpy() + a @ sae.W_enc.numpy() - b @ encoder, rtol=0, atol=1e-11
    )


def test_a_narrower_basis_keeps_what_the_map_keeps():
    """What the map sends to 0 is lost: the codes are those of the activations without it."""
    sae, x = made_up(), 3 * normal(50, 8, seed=9)
    map = sm.Map(normal(8, 5), normal(8, seed=3), normal(5, seed=4))
    M = map.matrix.numpy()
    kept = (x.numpy() - map.mean_a.numpy()) @ M @ np.linalg.pinv(M) + map.mean_a.numpy()
    mapped = sae.mapped(map)
    assert mapped.d == 5
    expected = sae.encode(torch.from_numpy(kept))
    torch.testing.assert_close(mapped.encode(map.apply(x)), expected, rtol=0, atol=1e-11)
    assert not torch.equal(expected != 0, sae.encode(x) != 0)


def test_a_wider_basis_is_seen_only_where_the_map_leads():
    sae, map = made_up(), some_maps(8)["orthogonal, wider"]
    h = map.apply(3 * normal(50, 8, seed=9))
    outside = normal(50, 11, seed=8)
    outside -= outside @ map.matrix.T @ map.matrix
    mapped = sae.mapped(map)
    torch.testing.assert_close(mapped.encode(h + outside), mapped.encode(h), rtol=0, atol=1e-11)


def test_an_orthogonal_map_changes_no_cosine_and_no_norm():
    sae, map = made_up(), some_maps(8)["orthogonal"]
    mapped = sae.mapped(map)
    for before, after in ((sae.W_dec, mapped.W_dec), (sae.W_enc.T, mapped.W_enc.T)):
        torch.testing.assert_close(after @ after.T, before @ before.T, rtol=FOLD, atol=1e-13)


def test_a_mapped_sae_says_so_and_keeps_its_number_type():
    sae = made_up(
        source="a.npz", reads=sm.Space("blocks.5.hook_resid_post"), writes=sm.Space("blocks.5.hook_resid_post")
    )
    mapped = sae.to(torch.float16).mapped(orthogonal(8))
    assert (mapped.source, mapped.W_dec.dtype, mapped.b_enc.dtype) == ("a.npz, mapped", torch.float32, torch.float32)
    assert "by a map: orthogonal" in mapped.notes[-1]
    assert mapped.reads.place is None
    assert sae.mapped(orthogonal(8)).W_dec.dtype == torch.float64
    header = sae.to("meta").mapped(orthogonal(8, 11))
    assert (header.d, header.W_dec.is_meta) == (11, True)


def test_a_map_that_does_not_fit_is_refused():
    sae = made_up()
    with pytest.raises(MatchError, match=r"width 8, and the map is \(5, 8\); expected \(8, d_B\)"):
        sae.mapped(normal(5, 8))
    with pytest.raises(MatchError, match="a transcoder reads and writes different activations"):
        made_up(reads=sm.Space("a.1"), writes=sm.Space("b.1")).mapped(normal(8, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"matrix": normal(3)}, r"is \(3,\); expected \(d_A, d_B\)"),
        ({"matrix": normal(0, 3)}, r"is \(0, 3\); expected"),
        ({"matrix": np.array([["a"]])}, "holds <U1; expected numbers"),
        ({"matrix": torch.full((2, 2), torch.nan)}, "4 values that are NaN or infinite"),
        ({"matrix": normal(3, 1) @ normal(1, 3)}, r"\(3, 3\) has rank 1, and full rank would be 3"),
        ({"matrix": torch.zeros(2, 3)}, "the largest entry of the matrix of a map is 0"),
        ({"matrix": 1e200 * normal(2, 2)}, "would leave float32"),
        ({"matrix": normal(3, 2), "mean_a": normal(2)}, r"mean_a of a map is \(2,\), expected \(3,\)"),
        ({"matrix": normal(3, 2), "mean_b": torch.tensor([0.0, torch.inf])}, "mean_b of a map holds 1 values"),
    ],
)
def test_no_map_is_made_of_anything_else(given, message):
    with pytest.raises(MatchError, match=message):
        sm.Map(**given)


# ---- Files


def test_a_map_is_read_as_it_was_written(tmp_path):
    h = normal(60, 4)
    map = procrustes(h, h @ orthogonal(4) + normal(60, 4, seed=1))
    path = tmp_path / "map.safetensors"
    map.save(path)
    again = sm.Map.of(path)
    assert again.record() == map.record()
    assert again.fit == map.fit
    assert repr(again) == repr(map)
    assert all(torch.equal(getattr(again, name), getattr(map, name)) for name in ("matrix", "mean_a", "mean_b"))
    with pytest.raises(MatchError, match="is there already"):
        map.save(path)
    sm.Map(normal(4, 4)).save(path, overwrite=True)
    assert sm.Map.load(path).record() != map.record()
    with pytest.raises(MatchError, match=r"a map is written as \.safetensors"):
        map.save(tmp_path / "map.npy")
    np.save(tmp_path / "map.npy", map.matrix.numpy().astype(np.float32))
    assert sm.Map.load(tmp_path / "map.npy").kind == "orthogonal"


def test_a_file_of_anything_else_is_refused(tmp_path):
    path = tmp_path / "map.safetensors"
    with pytest.raises(MatchError, match=r"no such file; a map is a \.npy or \.safetensors file"):
        sm.Map.load(path)
    tensors = {"matrix": normal(2, 2), "mean_a": normal(2), "mean_b": normal(2)}
    record = {"schema": 1, "map": {"fit": None}}
    fit = {"tokens": [1, 2], "residual": "x", "held_out": 0, "scale": 1, "left_out": 0}
    for kept, metadata in (
        (tensors, None),
        (tensors, {"saematch": "["}),
        (tensors, {"saematch": json.dumps({**record, "schema": 2})}),
        *(
            (tensors, {"saematch": json.dumps({**record, "map": {"fit": {**fit, **changes}}})})
            for changes in ({}, {"residual": np.nan}, {"residual": 0, "tokens": [1, np.inf]})
        ),
        ({"matrix": tensors["matrix"]}, {"saematch": json.dumps(record)}),
        ({**tensors, "mean_a": normal(3)}, {"saematch": json.dumps(record)}),
    ):
        save_file(kept, path, metadata)
        with pytest.raises(MatchError, match=r"map.safetensors: "):
            sm.Map.load(path)
    save_file(tensors, path, {"saematch": json.dumps(record)})
    assert sm.Map.load(path).matrix.shape == (2, 2)
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    with (tmp_path / "short.npy").open("wb") as file:  # a terabyte by its header
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**17)})
    np.savez(tmp_path / "several", np.eye(2))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("pickled", "short", "several"):
        with pytest.raises(MatchError, match="not a map between activations"):
            sm.Map.load(tmp_path / f"{name}.npy")
    with pytest.raises(MatchError, match=r"several\.npy: not an array that can be read \(it is an archive of arrays"):
        procrustes(tmp_path / "several.npy", normal(20, 2))


# ---- Maps that are fitted to activations


@pytest.mark.parametrize(("d", "other"), [(6, 6), (6, 9), (9, 6)])
def test_procrustes_finds_an_orthogonal_map(d, other):
    turn = orthogonal(d, other)
    h = normal(400, d, seed=1) if d <= other else normal(400, other, seed=1) @ turn.T
    map = procrustes(h + 2, h @ turn - 5)
    torch.testing.assert_close(map.matrix, turn, rtol=0, atol=1e-12)
    assert map.kind == "orthogonal"
    assert map.fit.tokens == (200, 200)
    assert max(map.fit.residual, map.fit.held_out) < 1e-25
    assert map.fit.scale == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(map.apply(h + 2), h @ turn - 5, rtol=0, atol=1e-11)


def test_procrustes_is_the_best_orthogonal_map_of_the_first_half():
    """Compared with SciPy's, and with small turns of it."""
    from scipy.linalg import expm, orthogonal_procrustes

    a = normal(300, 5, seed=1)
    b = 1.5 * a @ orthogonal(5) + normal(300, 5, seed=2)
    map = procrustes(a, b)
    x, y = (side[:150].numpy() - side[:150].numpy().mean(axis=0) for side in (a, b))
    expected, sum_of_sizes = orthogonal_procrustes(x, y)
    np.testing.assert_allclose(map.matrix, expected, rtol=0, atol=1e-12)
    best = np.square(x @ expected - y).sum()
    assert map.fit.residual == pytest.approx(best / np.square(y).sum(), rel=1e-12)
    assert map.fit.scale == pytest.approx(sum_of_sizes / np.square(x).sum(), rel=1e-12)
    for seed in range(5):
        skew = 1e-2 * normal(5, 5, seed=seed).numpy()
        assert np.square(x @ expected @ expm(skew - skew.T) - y).sum() > best
    others = (side[150:].numpy() - side[:150].numpy().mean(axis=0) for side in (a, b))
    u, v = others
    assert map.fit.held_out == pytest.approx(np.square(u @ expected - v).sum() / np.square(v).sum(), rel=1e-12)
    assert map.fit.held_out > map.fit.residual


def test_no_document_is_in_both_halves():
    """The second half of the documents, which are mixed, is turned the other way: the residual there tells."""
    documents = np.random.default_rng(0).integers(0, 40, 500)
    _, first = np.unique(documents, return_index=True)
    early = np.isin(documents, documents[np.sort(first)[: len(first) // 2]])
    h = normal(500, 4, seed=1)
    other = torch.where(torch.from_numpy(early)[:, None], h @ orthogonal(4), -(h @ orthogonal(4)))
    map = procrustes(h, other, documents=documents)
    assert map.fit.tokens == (early.sum(), (~early).sum())
    assert map.fit.residual < 1e-25
    assert map.fit.held_out == pytest.approx(4, rel=0.1)


def test_paths_halves_and_blocks_do_not_matter(tmp_path):
    a, b = (normal(5000, 3, seed=seed).numpy().astype(np.float16) for seed in (1, 2))
    paths = tmp_path / "a.npy", tmp_path / "b.npy"
    for path, array in zip(paths, (a, b), strict=True):
        np.save(path, array)
    map = procrustes(*paths)
    assert map.record() == procrustes(a, b).record() == procrustes(torch.from_numpy(a), b.astype(np.float64)).record()
    assert map.fit.tokens == (2500, 2500)


def test_outliers_are_left_out():
    h = normal(400, 4, seed=1)
    other = h @ orthogonal(4)
    h[7] *= 1e4
    map = procrustes(h, other)
    assert (map.fit.left_out, map.fit.tokens) == (1, (199, 200))
    torch.testing.assert_close(map.matrix, orthogonal(4), rtol=0, atol=1e-12)
    assert procrustes(h, other, outliers=None).fit.held_out > 0.01


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (normal(20, 4), normal(21, 4), {}, "20 tokens of A and 21 of B"),
        (normal(0, 4), normal(0, 4), {}, "0 tokens of A and 0 of B"),
        (normal(8, 4), normal(8, 4), {}, "4 tokens to fit a map by and 4 to measure it on"),
        (normal(8, 0), normal(8, 4), {}, r"activations of A are float64 \(8, 0\)"),
        (normal(40, 4), normal(40, 1).expand(40, 4), {}, "in fewer than 4 directions"),
        (normal(40), normal(40, 4), {}, r"activations of A are float64 \(40,\)"),
        (torch.full((40, 4), torch.nan), normal(40, 4), {}, "activations of A are NaN, or .*first at token 0"),
        (normal(40, 4), 1e200 * normal(40, 4), {}, "of B are NaN, or their norm exceeds 1e\\+100, first at token 0"),
        (normal(40, 4), normal(40, 4), {"documents": np.zeros(40, int)}, "0 tokens to fit a map by"),
        (normal(40, 4), normal(40, 4), {"documents": np.zeros(39, int)}, r"documents are int64 \(39,\)"),
        (normal(40, 4), normal(40, 4), {"outliers": 0}, "outliers is 0"),
        ("missing.npy", normal(40, 4), {}, "missing.npy: no such file"),
    ],
)
def test_activations_that_do_not_determine_a_map_are_refused(a, b, options, message):
    with pytest.raises(MatchError, match=message):
        procrustes(a, b, **options)


# ---- Matching


def two_models(F=40, d=8, other=None, noise=0.02):
    """Return an SAE, its copy in another basis with its features in another order and noise, and what is planted.

    What is planted: the order, the map, and activations of both models on the same tokens.
    """
    a = made_up(F, d)
    map = sm.Map(orthogonal(d, other, seed=5), normal(d, seed=6), normal(other or d, seed=7))
    b = a.mapped(map)
    order = torch.from_numpy(np.random.default_rng(1).permutation(F))
    changed = {
        "W_enc": b.W_enc[:, order] + noise * normal(b.d, F, seed=8),
        "W_dec": b.W_dec[order] + noise * normal(F, b.d, seed=9),
        "b_enc": b.b_enc[order],
        "threshold": b.threshold[order],
    }
    h = 3 * normal(600, d, seed=2)
    return a, replace(b, **changed, source="b"), order.argsort(), map, (h, map.apply(h) + noise * normal(600, b.d))


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"metric": "absolute_cosine", "parts": ["decoder"]}])
@pytest.mark.parametrize("other", [None, 11])
def test_features_are_found_in_another_basis_with_its_map_alone(options, other):
    a, b, planted, map, activations = two_models(other=other)
    known, fitted = (
        sm.match(a, b, map=map, **options),
        sm.match(a, b, map="procrustes", activations=activations, **options),
    )
    for m in (known, fitted):
        assert torch.equal(m.perm, planted)
        assert m.certified
        assert m.cosine.min() > 0.99
    assert known.options["map"] == map.record()
    assert known.options["map"]["fit"] is None
    assert fitted.options["map"]["fit"]["held_out"] < 0.001
    assert torch.equal(
        fitted.margins().bound, sm.match(a.mapped(procrustes(*activations)), b, **options).margins().bound
    )
    if other is None:
        assert (sm.match(a, b, **options).perm == planted).double().mean() < 0.3
    else:
        with pytest.raises(MatchError, match="do not live in one space"):
            sm.match(a, b, **options)


def test_a_narrower_target_is_matched_too():
    b, a, planted, map, _ = two_models(other=11)
    m = sm.match(a, b, map=map.matrix.T)
    assert (m.perm == planted.argsort()).double().mean() > 0.9


def test_the_cost_is_that_of_the_mapped_sae():
    a, b, planted, map, _ = two_models()
    matrix = map.matrix.numpy()
    m, plain = sm.match(a, b, map=matrix), sm.match(a.mapped(matrix), b)
    assert torch.equal(m.pair_cost, plain.pair_cost)
    assert sm.certify(a, b, m, map=matrix).certified
    assert sm.certify(a, b, m.perm).status == "suboptimal"
    again = sm.certify(a, b, planted, map=map)
    assert (again.status, again.options["map"]) == ("optimal", map.record())


def test_a_share_of_weights_is_mapped_and_activations_are_not():
    a, b, planted, map, activations = two_models()
    m = sm.match(a, b, metric="correlation", activations=activations, weights_share=0.5, map=map)
    expected = sm.match(a, b, metric="correlation", activations=activations)
    assert torch.equal(m.perm, planted)
    assert m.stats["active_together"] == expected.stats["active_together"]
    assert m.cosine.min() > 0.99
    fitted = sm.match(a, b, metric="correlation", activations=activations, weights_share=0.5, map="procrustes")
    assert torch.equal(fitted.perm, planted)
    assert fitted.options["map"]["fit"]["held_out"] < 0.001


def test_options_that_do_not_go_together_are_refused():
    a, b, _, map, activations = two_models()
    for options, message in (
        ({"metric": "correlation", "activations": activations, "map": map}, "which needs no map: leave out map="),
        ({"map": "procrustes"}, 'map="procrustes" is fitted to activations= of the source and of the target'),
        ({"map": "procrustes", "activations": activations[0]}, "is fitted to activations="),
        ({"map": map, "activations": activations}, 'activations= are for map="procrustes"'),
        ({"map": map, "weights_share": 0.5}, "weights_share is for a metric of activations"),
        ({"map": normal(5, 8)}, r"expected \(8, d_B\)"),
        ({"map": normal(8, 5)}, "map leads to activations of width 5, and b has d = 8"),
        ({"map": "missing.npy"}, "missing.npy: no such file"),
    ):
        with pytest.raises(MatchError, match=message):
            sm.match(replace(a, source="a"), b, **options)
    with pytest.raises(MatchError, match="activations and map apply to SAEs"):
        sm.certify(normal(3, 3), normal(3, 3), [0, 1, 2], map=map)


# ---- The command line


def command(capsys, *arguments):
    code = main(list(map(str, arguments)))
    return code, capsys.readouterr()


def test_the_commands_fit_maps_and_match_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b, planted, _, activations = two_models()
    for name, sae, states in zip("ab", (a, b), activations, strict=True):
        sae.save(name)
        np.save(f"{name}.npy", states.numpy())
    assert command(capsys, "map", "a.npy", "b.npy", "-o", "map.safetensors")[0] == 0
    fitted = sm.Map.load("map.safetensors")
    assert fitted.fit.tokens == (300, 300)
    assert "is there already" not in command(capsys, "map", "a.npy", "b.npy", "-o", "map.safetensors")[1].out
    code, said = command(capsys, "map", "a.npy", "b.npy", "-o", "map.safetensors", "--overwrite", "--json")
    assert code == 0
    assert json.loads(said.out)["sha256"] == fitted.record()["sha256"]
    code, said = command(capsys, "match", "a", "b", "--map", "map.safetensors", "-o", "m.safetensors")
    assert code == 0
    assert "A is written in the basis of B by a map: orthogonal, fitted on 300 tokens; it leaves 0.0%" in said.out
    assert torch.equal(sm.Matching.load("m.safetensors").perm, planted)
    assert command(capsys, "verify", "a", "b", "m.safetensors", "--map", "map.safetensors")[0] == 0
    code, said = command(capsys, "verify", "a", "b", "m.safetensors")
    assert code == 2
    assert "give the same one (--map)" in said.err
    code, said = command(capsys, "match", "a", "b", "--map", "procrustes", "--activations", "a.npy", "b.npy", "--json")
    assert json.loads(said.out)["perm"] == planted.tolist()
    code, said = command(capsys, "match", "a", "b", "--map", "procrustes")
    assert code == 2
    assert '--map "procrustes" is fitted to --activations' in said.err


# ---- Runs


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """Write two models with layers 3 and 4 and a map between them, in files; return what is planted in each layer."""
    monkeypatch.chdir(tmp_path)
    planted = {}
    for layer in (3, 4):
        a, b, planted[layer], map, _ = two_models()
        for name, sae in zip("ab", (a, b), strict=True):
            replace(sae, b_enc=sae.b_enc + layer).save(f"{name}/layer_{layer}")
    map.save("map.safetensors")
    return planted


def arrays(chain):
    return {pair: (chain[pair].perm.tolist(), chain[pair].pair_cost.tolist()) for pair in chain}


@pytest.mark.parametrize("out", [None, "run"])
def test_a_run_of_two_models_is_matched_by_a_map(two_sets, out):
    a, b = sm.load_layers("a"), sm.load_layers("b")
    chain = sm.match_layers(a, out, against=b, map="map.safetensors")
    assert chain.certified
    for layer, planted in two_sets.items():
        assert torch.equal(chain[layer, layer].perm, planted)
        assert chain[layer, layer].cosine.min() > 0.99
        assert chain.sae(layer).source.endswith("mapped")
    assert (sm.match_layers(a, against=b)[3, 3].perm == two_sets[3]).double().mean() < 0.3
    assert arrays(chain) == arrays(sm.match_layers(a, against=b, map=sm.Map.load("map.safetensors")))
    by_layer = sm.match_layers(a, against=b, map={4: "map.safetensors"})
    assert list(by_layer) == [(4, 4)]
    assert by_layer[4, 4].pair_cost.tolist() == arrays(chain)[4, 4][1]


def test_a_run_with_a_map_is_recorded_resumed_and_proved_again(two_sets):
    a, b, record = sm.load_layers("a"), sm.load_layers("b"), sm.Map.load("map.safetensors").record()
    chain = sm.match_layers(a, "run", against=b, map="map.safetensors")
    assert chain.record["options"]["map"] == {"3": record, "4": record}
    assert chain[3, 3].options["map"] == record
    assert [*chain.pair_record((3, 3))["inputs"][0]["files"]][-1] == "map into another basis"
    again, bound = sm.Chain.load("run"), chain[3, 3].margins().bound
    assert torch.equal(again[3, 3].margins().bound, bound)
    assert torch.equal(again.sae(3).W_dec, a[3].mapped("map.safetensors").W_dec)
    assert again.arrays((3, 3)).cosine.min() > 0.99
    assert sm.match_layers(a, "run", against=b, map="map.safetensors", verify_inputs=True).complete
    # The map may move, as SAEs may.
    Path("map.safetensors").rename("moved.safetensors")
    with pytest.raises(MatchError, match=r"map\.safetensors: cannot be read"):
        sm.Chain.load("run").sae(3)
    moved = sm.Chain.load("run", a.mapped("moved.safetensors"), b)
    assert torch.equal(moved[3, 3].margins().bound, bound)
    assert sm.match_layers(a, "run", against=b, map="moved.safetensors").complete
    # Another map, or none, is another run.
    for map in (None, orthogonal(8)):
        with pytest.raises(MatchError, match="holds another run: map was "):
            sm.match_layers(a, "run", against=b, map=map)
    for changed in (a, a.mapped({3: orthogonal(8)})):
        with pytest.raises(MatchError, match="the SAE of layer 3 has changed since the run"):
            sm.Chain.load("run", changed, b).sae(3)
    # A map whose file has changed is noticed, also where it is part of the address of the SAEs.
    sm.match_layers(sm.load_layers("a?map=moved.safetensors"), "other", against=b)
    sm.Map(orthogonal(8)).save("moved.safetensors", overwrite=True)
    with pytest.raises(MatchError, match="the SAE of layer 3 has changed since the run"):
        sm.Chain.load("other").sae(3)
    with pytest.raises(MatchError, match="has changed since pair 3-3 was matched"):
        sm.match_layers(sm.load_layers("a?map=moved.safetensors"), "other", against=b)


def test_maps_of_layers_and_names(two_sets):
    saes = sm.load_layers({"early": "a/layer_3", "late": "a/layer_4"})
    for name, map in (("early", orthogonal(8)), ("late", 2 * orthogonal(8))):
        sm.Map(map).save(f"{name}.safetensors")
    mapped = saes.mapped(Path("{layer}.safetensors"))
    assert mapped.names == ("early", "late")
    assert list(mapped.source) == ["early", "late"]
    assert torch.equal(sm.load_layers(mapped.source)["late"].W_dec, mapped["late"].W_dec)
    assert torch.equal(mapped["late"].W_dec, saes["late"].mapped(2 * orthogonal(8)).W_dec)
    in_memory = saes.mapped({"late": 2 * orthogonal(8)})
    assert (in_memory.names, in_memory.source) == (("late",), "in memory")
    assert torch.equal(in_memory["late"].W_dec, mapped["late"].W_dec)
    with pytest.raises(MatchError, match="maps are given for 'middle', and the SAEs are 'early', 'late'"):
        saes.mapped({"middle": orthogonal(8)})
    targets = sm.load_layers({"early": "b/layer_3", "late": "b/layer_4"})
    chain = sm.match_layers(saes, "run", against=targets, map="{layer}.safetensors")
    assert [*chain.record["options"]["map"]] == ["early", "late"]
    assert sm.Chain.load("run").sae("late").d == 8


def test_a_run_refuses_a_map_without_a_second_set_or_that_is_not_fitted(two_sets):
    a, b = sm.load_layers("a"), sm.load_layers("b")
    for options, message in (
        ({"map": "map.safetensors"}, "give the other one as against="),
        ({"map": "procrustes", "against": b}, "a run takes maps that were fitted before"),
        ({"map": "missing.npy", "against": b}, "missing.npy: no such file"),
        ({"map": {5: "map.safetensors"}, "against": b}, "maps are given for 5, and the SAEs are 3, 4"),
        ({"map": {"3": "map.safetensors"}, "against": b}, "maps are given for '3', and the SAEs are 3, 4"),
        ({"map": {3.5: "map.safetensors"}, "against": b}, "maps are given for 3.5, and the SAEs are 3, 4"),
        ({"map": {}, "against": b}, "maps are given for no SAE"),
        ({"map": orthogonal(5), "against": b}, r"activations have width 8, and the map is \(5, 5\)"),
        ({"map": orthogonal(8, 11), "against": b}, "mapped has d = 11 and .* has d = 8"),
        ({"map": orthogonal(8), "against": b, "metric": "jaccard", "activations": "x"}, "which needs no map"),
    ):
        with pytest.raises(MatchError, match=message):
            sm.match_layers(a, "run", **options)
    assert not Path("run").exists()


def test_an_address_may_name_a_map(two_sets):
    a = sm.load("a/layer_3")
    mapped = sm.load("a/layer_3?map=map.safetensors")
    assert torch.equal(mapped.W_enc, a.mapped("map.safetensors").W_enc)
    layers = sm.load_layers("a?map=map.safetensors")
    assert layers.source.endswith(f"map={Path('map.safetensors').absolute()}")
    header = layers.handles[3].header()
    assert (header.d, "by a map: orthogonal" in header.notes[-1]) == (8, True)
    np.save("wide.npy", orthogonal(8, 11).numpy())
    assert sm.load_layers("a?map=wide.npy").handles[3].header().d == 11
    with pytest.raises(MatchError, match=r"missing\.npy: cannot be read \(No such file"):
        sm.load("a/layer_3?map=missing.npy")


def test_an_sae_that_is_mapped_already_is_mapped_again(two_sets):
    once, more = sm.load_layers("a?map=map.safetensors"), sm.Map(2 * orthogonal(8, seed=3))
    more.save("more.safetensors")
    twice = sm.load("a/layer_3").mapped("map.safetensors").mapped(more)
    assert torch.equal(once.mapped("more.safetensors")[3].W_dec, twice.W_dec)
    chain = sm.match_layers(once, against=sm.load_layers("b"), map="more.safetensors")
    single = sm.match(twice, sm.load("b/layer_3"))
    assert torch.equal(chain[3, 3].pair_cost, single.pair_cost)


def test_a_mapped_sae_has_the_same_bits_with_any_number_of_threads():
    sae, map = made_up(3000, 96), sm.Map(normal(96, 96))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(sae.to(torch.float32).mapped(sm.Map(map.matrix)).tensors())
    finally:
        torch.set_num_threads(before)
    for tensors in found[1:]:
        assert all(torch.equal(tensor, found[0][name]) for name, tensor in tensors.items())


def test_nulls_are_the_control_of_a_mapped_comparison(two_sets):
    """The rotated null of B loses what the map finds, and the number without a map is no larger than the null's."""
    a, b, map = sm.load("a/layer_3"), sm.load("b/layer_3"), "map.safetensors"
    for saes in ({"A": a.mapped(map), "B": b}, {"A": f"a/layer_3?map={map}", "B": "b/layer_3"}):
        (pair,) = sm.consistency(saes, axis="model", nulls=2).pairs
        assert pair.mcc_decoder > 0.99
        assert pair.shared == 1
        assert pair.null_rotated.mean["mcc_decoder"] < 0.75
    (plain,) = sm.consistency({"A": a, "B": b}, axis="model", nulls=2).pairs
    assert plain.mcc_decoder == pytest.approx(plain.null_rotated.mean["mcc_decoder"], abs=0.05)


def test_the_command_matches_layers_by_a_map(two_sets, capsys):
    run = ("layers", "a", "--against", "b", "--map", "map.safetensors")
    code, said = command(capsys, *run, "--dry-run")
    assert code == 0, said.err
    assert "by a map: orthogonal" in said.out
    code, said = command(capsys, *run, "-o", "run")
    assert code == 0
    assert "The sources are written in the basis of the targets by a map: orthogonal" in said.out
    assert torch.equal(sm.Chain.load("run")[4, 4].perm, two_sets[4])
    assert "in the basis of the targets by a map" in command(capsys, "show", "run")[1].out
    verify = ("verify", "a/layer_3", "b/layer_3", "run/pairs/3-3.safetensors")
    assert "give the same one (--map)" in command(capsys, *verify)[1].err
    assert command(capsys, *verify, "--map", "map.safetensors")[0] == 0
    code, said = command(capsys, "layers", "a", "--against", "b", "-o", "run")
    assert code == 2
    assert "holds another run: map was" in said.err
    code, said = command(capsys, "layers", "a", "--map", "map.safetensors", "-o", "other")
    assert code == 2
    assert "give the other one as --against" in said.err
    code, said = command(capsys, "info", "a?map=map.safetensors")
    assert "by a map: orthogonal" in said.out


def test_a_damaged_record_of_a_map_is_refused(two_sets):
    chain = sm.match_layers(sm.load_layers("a"), "run", against=sm.load_layers("b"), map="map.safetensors")
    record, path = dict(chain.record), Path("run/run.json")
    fit = {"tokens": [1, 2], "residual": 0.1, "held_out": 0.1, "scale": 1.0, "left_out": 0}
    for damaged in (
        [],
        {"3": None},
        {"3": {**record["options"]["map"]["3"], "fit": {}}},
        {"3": {**record["options"]["map"]["3"], "fit": {**fit, "tokens": ["x", 2]}}},
    ):
        path.write_text(json.dumps({**record, "options": {**record["options"], "map": damaged}}))
        with pytest.raises(MatchError, match=r"run\.json: not the record of a run"):
            sm.Chain.load("run")
