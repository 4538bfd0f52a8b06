"""Comparison of SAEs: every number against SciPy on the stored matrix, planted copies, nulls, resuming, the command."""

import csv
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from stored_matrix import numbers_by_scipy

import saematch as sm
from saematch.assignment import margins as margins_search
from saematch.dictionaries import draw_figures
from saematch.dictionaries.measures import STATISTICS
from saematch.dictionaries.nulls import Nulls
from saematch.dictionaries.similarity import directions, nearest
from saes import made_up, write_npz
from test_cli import assert_refused, parsed, saematch

ROUNDING = 1e-9  # of means of cosines, as the definitions ask for


def taken(sae, features, sign=1.0, noise=0.0):
    """Return an SAE of some features of another one, in that order, with noise."""
    r = np.random.default_rng(1)
    changed = {"W_enc": sign * sae.W_enc[:, features], "W_dec": sign * sae.W_dec[features]}
    changed = {name: rows + noise * torch.from_numpy(r.standard_normal(rows.shape)) for name, rows in changed.items()}
    return replace(sae, **changed, b_enc=sae.b_enc[features], threshold=sae.threshold[features])


def without_directions(sae, features):
    """Return a copy whose listed features have neither an encoder nor a decoder direction."""
    encoder, decoder = sae.W_enc.clone(), sae.W_dec.clone()
    encoder[:, features], decoder[features] = 0, 0
    return replace(sae, W_enc=encoder, W_dec=decoder)


WIDE = made_up(F=60, d=16, seed=1)
ONE, ORDER = taken(WIDE, np.arange(40)), np.random.default_rng(0).permutation(40)
PLANTED = {
    "permuted": (ONE, taken(ONE, ORDER)),
    "negated": (ONE, taken(ONE, ORDER, sign=-1.0)),
    "noised": (ONE, taken(ONE, ORDER, noise=0.3)),
    "wider": (ONE, taken(WIDE, np.random.default_rng(0).permutation(60), noise=0.1)),
    "narrower": (taken(WIDE, np.random.default_rng(0).permutation(60), noise=0.1), ONE),
    "other": (ONE, made_up(F=40, d=16, seed=2)),
    "dead": (without_directions(ONE, [3, 5]), without_directions(taken(ONE, ORDER, noise=0.1), [0, 1, 7])),
}


def assert_equal(pair, expected):
    assert pair.certified
    assert set(expected) == set(STATISTICS) == set(pair.numbers())
    for name, value in pair.numbers().items():
        assert abs(value - expected[name]) < ROUNDING, name


@pytest.mark.parametrize("case", PLANTED)
def test_every_number_is_scipys(case):
    a, b = PLANTED[case]
    assert_equal(sm.consistency({"a": a, "b": b}, nulls=0).pairs[0], numbers_by_scipy(a, b))


def test_every_number_of_the_sample_is_scipys(sample):
    a, b = sample[8], sample[9]
    result = sm.consistency({"a": a, "b": b}, nulls=0)
    assert_equal(result.pairs[0], numbers_by_scipy(a, b))
    assert result.certified


def test_planted_copies_have_the_numbers_that_they_must_have():
    def pair(case):
        return sm.consistency(dict(zip("ab", PLANTED[case], strict=True)), nulls=0).pairs[0].numbers()

    assert pair("permuted") == pytest.approx(dict.fromkeys(STATISTICS, 1.0), abs=ROUNDING)
    negated = pair("negated")
    for kind in ("decoder", "encoder", "joint"):
        assert negated[f"mcc_{kind}_absolute"] == pytest.approx(1.0, abs=ROUNDING)
        assert negated[f"mcc_{kind}"] < 0.8
    assert (negated["shared"], negated["uniqueness_ab"]) == (0.0, 1.0)
    wider = sm.consistency({"a": ONE, "b": WIDE}, nulls=0)
    assert wider.pairs[0].mcc_decoder == pytest.approx(1.0, abs=ROUNDING)
    assert (wider.shared_with_all["a"], wider.shared_with_all["b"]) == (1.0, 40 / 60)


def test_nulls_keep_what_they_say():
    sae = without_directions(made_up(F=4000, d=6, seed=3), [17])
    stretched = replace(sae, W_dec=sae.W_dec * torch.tensor([3.0, 1, 1, 1, 1, 0.1]) + 1, W_enc=sae.W_enc + sae.W_dec.T)
    stretched = without_directions(stretched, [17])
    rows = np.concatenate([directions(stretched, "encoder"), directions(stretched, "decoder")], axis=1)
    # Turned: all angles within the SAE stay, also those between encoder and decoder.
    turned = Nulls(stretched).rotated(0)
    turned_rows = np.concatenate([directions(turned, "encoder"), directions(turned, "decoder")], axis=1)
    for left in (slice(0, 6), slice(6, 12)):
        for right in (slice(0, 6), slice(6, 12)):
            before, after = (x[:100, left] @ x[:100, right].T for x in (rows, turned_rows))
            assert np.abs(before - after).max() < 1e-12
    assert np.abs(turned_rows - rows).max() > 0.1
    # Random: the moments of the numbers that are drawn, before they are scaled to norm 1.
    drawn = Nulls(stretched).random(0)
    drawn_rows = np.concatenate([drawn.W_enc.T.numpy(), drawn.W_dec.numpy()], axis=1)
    assert np.abs(drawn_rows.mean(axis=0) - rows.mean(axis=0)).max() < 5 / np.sqrt(4000)
    assert np.abs(np.cov(drawn_rows.T) - np.cov(rows.T)).max() < 5 / np.sqrt(4000)
    assert not drawn.W_dec[17].any()
    assert not turned.W_enc[:, 17].any()
    assert not torch.equal(drawn.W_dec, Nulls(stretched).random(1).W_dec)


def test_the_gap_to_a_null_is_in_units_of_its_spread():
    a, b = PLANTED["noised"]
    result = sm.consistency({"a": a, "b": b}, nulls=3)
    pair = result.pairs[0]
    for null, make in ((pair.null_random, Nulls(b).random), (pair.null_rotated, Nulls(b).rotated)):
        values = [numbers_by_scipy(a, make(seed))["mcc_joint"] for seed in range(3)]
        assert null.mean["mcc_joint"] == pytest.approx(np.mean(values), abs=ROUNDING)
        assert null.spread["mcc_joint"] == pytest.approx(np.std(values, ddof=1), abs=ROUNDING)
        assert null.gap["mcc_joint"] == pytest.approx((pair.mcc_joint - np.mean(values)) / np.std(values, ddof=1))
        assert null.gap["mcc_joint"] > 3
        assert (null.seeds, null.certified) == (3, True)
    of_one = sm.consistency({"a": a, "b": b}, nulls=1).pairs[0].null_random
    assert (of_one.spread["mcc_joint"], of_one.gap["mcc_joint"]) == (None, None)


def three():
    """Return three SAEs: all share 0 to 9, one and two share 10 to 19, and each has features of its own."""
    basis = torch.eye(64, dtype=torch.float64)

    def sae(rows, encoder=None):
        rows = basis[rows]
        encoder = rows if encoder is None else basis[encoder]
        return sm.SAE(encoder.T.clone(), torch.zeros(len(rows)).double(), rows, torch.zeros(64).double())

    first, second = np.arange(30), np.concatenate([np.arange(20), np.arange(30, 40)])
    third = np.concatenate([np.arange(10), np.arange(40, 60)])
    # Feature 29 of the first has a decoder direction of the third, and an encoder direction that no other SAE has.
    return {"one": sae([*first[:29], 45], first), "two": sae(second), "three": sae(third)}


def test_features_are_shared_unique_or_uncertain(tmp_path):
    result = sm.consistency(three(), nulls=0, out=tmp_path, margins=True)
    assert result.shared_with_all == pytest.approx({"one": 1 / 3, "two": 1 / 3, "three": 1 / 3})
    assert result.shared_with_some == pytest.approx({"one": 1 / 3, "two": 1 / 3, "three": 0.0})
    assert result.shared_with_none == pytest.approx({"one": 1 / 3, "two": 1 / 3, "three": 2 / 3})
    assert result.decisions["one"] == pytest.approx({"shared": 20 / 30, "unique": 9 / 30, "uncertain": 1 / 30})
    assert result.decisions["three"] == pytest.approx({"shared": 10 / 30, "unique": 19 / 30, "uncertain": 1 / 30})
    assert result.pw_mcc_decoder == pytest.approx(np.mean([20 / 30, 11 / 30, 10 / 30]))
    # One row a feature, and one for each other SAE.
    with open(tmp_path / "features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    of_one = [row for row in rows if row["sae"] == "one"]
    assert (of_one[3]["found_in"], of_one[3]["partners"], of_one[3]["similarities"]) == ("two;three", "3;3", "1;1")
    assert (of_one[12]["found_in"], of_one[12]["decision"]) == ("two", "shared")
    assert (of_one[20]["shared_with"], of_one[20]["decision"]) == ("0", "unique")
    assert (of_one[29]["found_in"], of_one[29]["decision"]) == ("", "uncertain")
    with open(tmp_path / "partners.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 180
    # Margins are those of the matching of decoders, for both sides.
    matching = sm.match(three()["one"], three()["two"], metric="cosine", parts=["decoder"])
    margins, perm = matching.margins(), matching.perm.numpy()
    for name, values in (("margin", margins.bound.numpy()), ("margin_exact", margins.is_exact.numpy())):
        assert np.array_equal(result.partners["one", "two"][name], values)
        assert np.array_equal(result.partners["two", "one"][name][perm], values)
    assert (of_one[3]["margins"].count(";"), of_one[3]["margins_exact"]) == (1, "1;1")


def test_tables_are_read_back_by_pyarrow(tmp_path):
    import pyarrow.parquet

    result = sm.consistency({"a": ONE, "b": WIDE}, nulls=1, out=tmp_path)
    partners = pyarrow.parquet.read_table(tmp_path / "partners.parquet").to_pydict()
    assert partners["partner"] == [*result.partners["a", "b"]["partner"], *result.partners["b", "a"]["partner"]]
    assert partners["similarity"].count(None) == 20  # of the wider SAE
    bins = pyarrow.parquet.read_table(tmp_path / "similarities.parquet").to_pydict()
    assert sum(bins["features"]) == pytest.approx(40 * 3 * 3)
    written = json.loads((tmp_path / "consistency.json").read_text())
    assert written == json.loads(json.dumps(result.as_dict()))
    assert written["pairs"][0]["mcc_decoder"] == result.pairs[0].mcc_decoder
    assert written["definitions"]["mcc"]["version"] == 1
    assert written["saes"][0]["sha256"]["W_dec"]


def test_a_margin_that_is_only_bounded_says_so(tmp_path, monkeypatch):
    """Of a large SAE, only the lowest margins are computed exactly; here of a small one."""
    for name, value in {"_SMALL": 0, "LOWEST": 1, "_MOST_ROWS": 1}.items():
        monkeypatch.setattr(margins_search, name, value)
    a, b = PLANTED["noised"]
    result = sm.consistency({"a": a, "b": b}, nulls=0, margins=True, out=tmp_path)
    is_exact = sm.match(a, b, metric="cosine", parts=["decoder"]).margins().is_exact.tolist()
    assert set(is_exact) == {False, True}
    assert result.partners["a", "b"]["margin_exact"].tolist() == is_exact
    with open(tmp_path / "features.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sae"] == "a"]
    assert {row["decision"] for row in rows} == {"shared"}
    assert [row["margins_exact"] for row in rows] == [str(int(exact)) for exact in is_exact]


def assert_same_comparison(read, result):
    assert read.as_dict() == json.loads(json.dumps(result.as_dict()))
    assert read.pairs == result.pairs  # with their histograms
    assert (list(read.partners), list(read.rates)) == (list(result.partners), list(result.rates))
    for key, columns in result.partners.items():
        assert list(read.partners[key]) == list(columns)
        for name, values in columns.items():
            assert read.partners[key][name].dtype == values.dtype
            assert np.array_equal(read.partners[key][name], values, equal_nan=True), name
    for name, values in result.rates.items():
        assert np.array_equal(read.rates[name], values)


@pytest.mark.parametrize("nulls", [0, 1, 2])
def test_a_comparison_is_read_back(tmp_path, nulls):
    rates = {"08": np.random.default_rng(0).random(40)}
    names = {"08": ONE, "1e3, True": WIDE, "other": made_up(F=40, d=16, seed=2)}
    result = sm.consistency(names, nulls=nulls, margins=nulls == 1, firing_rates=rates, reference="1e3, True")
    result.save(tmp_path)
    read = sm.Consistency.load(tmp_path)
    assert_same_comparison(read, result)
    # What is read is written again as it was.
    read.save(tmp_path / "again")
    for path in tmp_path.glob("*.csv"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert draw_figures(read, tmp_path) == {}


def test_a_damaged_part_is_measured_again(tmp_path):
    compared = {"a": ONE, "b": WIDE}
    before = sm.consistency(compared, nulls=0, out=tmp_path).pairs
    (part,) = (tmp_path / "parts").iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:300])
    assert sm.consistency(compared, nulls=0, out=tmp_path).pairs == before
    assert part.read_bytes() == whole


def test_damaged_comparisons_are_refused(tmp_path):
    with pytest.raises(sm.MatchError, match="no such file"):
        sm.Consistency.load(tmp_path)
    sm.consistency({"a": ONE, "b": WIDE}, nulls=1, out=tmp_path)
    written = {name: (tmp_path / name).read_text() for name in ("consistency.json", "partners.csv", "similarities.csv")}
    cases = [
        ("consistency.json", lambda text: text[:-9], "consistency.json: cannot be read"),
        ("consistency.json", lambda _: "[]", "not a comparison that saematch wrote"),
        ("consistency.json", lambda text: text.replace('"schema": 2', '"schema": 1'), "schema 1, this version reads 2"),
        ("consistency.json", lambda text: text.replace('"mcc_joint"', '"mcc"', 1), "not a comparison"),
        ("consistency.json", lambda text: text.replace('"axis"', '"axes"', 1), "not a comparison"),
        (
            "consistency.json",
            lambda text: text.replace('"mmcs_ab": ', '"mmcs_ab": 1e999, "was": ', 1),
            "not JSON compliant",
        ),
        (
            "consistency.json",
            lambda text: text.replace('"mmcs_ab": ', '"mmcs_ab": "x", "was": ', 1),
            "not a comparison",
        ),
        ("consistency.json", lambda text: text.replace('"name": "a"', '"name": "c"', 1), "not a comparison"),
        ("consistency.json", lambda text: text.replace('"firing_rates": []', '"firing_rates": [{"sae": 1}]'), "not a"),
        ("partners.csv", lambda text: text[: len(text) // 2], "not a comparison"),
        ("partners.csv", lambda text: text[: text.rindex("b,a,59")], "number of features is not that of the SAE"),
        ("partners.csv", lambda text: text.replace("a,b,3,", "a,b,4,"), "features are missing"),
        ("partners.csv", lambda text: text.replace("shared,", "shared,7", 1), "a partner is not a feature"),
        ("partners.csv", lambda text: text.replace("margin_exact,", ""), "its columns are not those of this version"),
        ("similarities.csv", lambda text: text.replace("\na,b,", "\na,c,"), "not a comparison"),
        ("similarities.csv", lambda text: text.replace(",null_random,", ",null,"), "not a comparison"),
        ("similarities.csv", lambda text: text[: text.rindex("\n", 0, -1) + 1], "bins of similarities are missing"),
        ("similarities.csv", lambda _: "", "its columns are not those of this version"),
    ]
    for name, damage, words in cases:
        (tmp_path / name).write_text(damage(written[name]))
        assert damage(written[name]) != written[name]
        with pytest.raises(sm.MatchError, match=words):
            sm.Consistency.load(tmp_path)
        (tmp_path / name).write_text(written[name])
    assert sm.Consistency.load(tmp_path).pw_mcc_decoder == pytest.approx(1.0)


def test_a_comparison_that_was_stopped_resumes_after_its_finished_pairs(tmp_path):
    saes, seen = three(), []

    def stop(event):
        seen.append(event)
        if (event.a, event.b) == ("one", "three"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sm.consistency(saes, nulls=0, out=tmp_path / "stopped", progress=stop)
    seen.clear()
    resumed = sm.consistency(saes, nulls=0, out=tmp_path / "stopped", progress=seen.append)
    starts = [event for event in seen if event.last_pass is None]
    assert [event.done for event in starts] == list(range(8, 24))
    assert {event.total for event in starts} == {24}
    assert starts[-1].seconds_left is not None
    whole = sm.consistency(saes, nulls=0, out=tmp_path / "whole")
    assert resumed.pairs == whole.pairs
    assert resumed.saes == whole.saes
    for name in ("features.csv", "partners.csv", "similarities.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Other SAEs, or other options, are not taken from the folder.
    changed = sm.consistency(saes | {"three": saes["two"]}, nulls=0, out=tmp_path / "stopped")
    assert changed.pairs[1].mcc_decoder == pytest.approx(20 / 30)


def test_results_print_one_short_line_and_a_table_in_notebooks():
    result = sm.consistency({"a<b": ONE, "b": WIDE}, nulls=1)
    assert repr(result) == "Consistency(2 SAEs, 1 pairs, pw_mcc_decoder=1.0000, certified=True)"
    assert repr(result.pairs[0]).startswith("PairConsistency('a<b', 'b', mcc_decoder=1.0000, shared=1.0000")
    assert repr(result.pairs[0].null_random).startswith("NullModel(mcc_decoder=0.")
    (row,) = ElementTree.fromstring(f"<div>{result._repr_html_()}</div>").findall("table/tr")[1:]
    assert [row[0].text, row[2].text] == ["a<b", "1.0000"]


def test_the_reference_is_compared_with_each_of_the_others():
    result = sm.consistency(three(), reference="three", nulls=0, axis="step")
    assert [(pair.a, pair.b) for pair in result.pairs] == [("three", "one"), ("three", "two")]
    assert (result.reference, result.axis) == ("three", "step")
    assert result.pw_mcc_decoder == pytest.approx((11 / 30 + 10 / 30) / 2)


def test_shares_by_firing_rate():
    rates = np.arange(30)[::-1] / 1000
    result = sm.consistency(three(), nulls=0, firing_rates={"one": rates})
    rows = [row for row in result.firing_rates if row["other"] == "two"]
    assert {row["sae"] for row in result.firing_rates} == {"one"}
    assert [row["decile"] for row in rows] == list(range(1, 11))
    assert [row["features"] for row in rows] == [3] * 10
    # Features 27 to 29 fire least; 0 to 19 are shared.
    assert [row["shared"] for row in rows] == pytest.approx([0, 0, 0, 2 / 3, 1, 1, 1, 1, 1, 1])
    assert (rows[0]["low"], rows[0]["high"]) == (0.0, 0.002)
    for wrong in (rates[:-1], -rates, [np.nan] * 30, ["a"] * 30):
        with pytest.raises(sm.MatchError, match="firing rates of one"):
            sm.consistency(three(), firing_rates={"one": wrong})
    with pytest.raises(sm.MatchError, match="not among the names"):
        sm.consistency(three(), firing_rates={"four": rates})


def test_figures_are_drawn(tmp_path):
    rates = {"one": np.arange(30.0)}
    for reference in (None, "one"):
        result = sm.consistency(three(), reference=reference, nulls=1, firing_rates=rates)
        assert draw_figures(result, tmp_path) == {}
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        f"{name}.{kind}" for name in ("pw_mcc", "similarity", "shared", "firing_rates") for kind in ("png", "svg")
    }


@pytest.mark.parametrize(
    ("saes", "options", "words"),
    [
        ({"a": ONE}, {}, "at least two"),
        ([ONE, WIDE], {}, "a mapping of names"),
        ({"a": ONE, "b": 3}, {}, "b is a int"),
        ({"a": ONE, "b": made_up(d=4)}, {}, "do not live in one space"),
        ({1: ONE, "1": WIDE}, {}, "two SAEs have the name '1'"),
        ({"a;b": ONE, "b": WIDE}, {}, "cannot be a name"),
        ({"a": ONE, "b": WIDE}, {"reference": "c"}, "reference is 'c'"),
        ({"a": ONE, "b": WIDE}, {"threshold": 1.5}, "threshold is 1.5"),
        ({"a": ONE, "b": WIDE}, {"nulls": -1}, "null seeds is -1"),
        ({"a": ONE, "b": WIDE}, {"axis": ""}, "axis is ''"),
        ({"a": ONE, "b": "no/such"}, {}, "no such file"),
    ],
)
def test_bad_input_is_refused(saes, options, words):
    with pytest.raises(sm.MatchError, match=words):
        sm.consistency(saes, **options)


def test_the_command_prints_what_it_writes(tmp_path):
    for name, sae in zip(("seed_1", "seed_2"), PLANTED["noised"], strict=True):
        write_npz(tmp_path / name / "final", sae)
    (tmp_path / "rates.txt").write_text("\n".join(map(str, range(40))))
    command = (
        "consistency",
        "seed_1",
        "seed_2",
        "--null-seeds",
        "1",
        "-o",
        "out",
        "--firing-rates",
        "seed_2=rates.txt",
    )
    content = parsed(saematch(*command, "--json", cwd=tmp_path))
    assert content == json.loads((tmp_path / "out" / "consistency.json").read_text())
    assert [sae["name"] for sae in content["saes"]] == ["seed_1", "seed_2"]
    assert content["saes"][0]["path"].endswith("seed_1/final/params.npz")
    assert {row["sae"] for row in content["firing_rates"]} == {"seed_2"}
    assert (tmp_path / "out" / "figures" / "firing_rates.png").exists()
    done = saematch(*command, "--names", "x,y", "--firing-rates", "rates.txt", cwd=tmp_path)
    assert_refused(done, "'seed_2', which is not among the names x, y")
    done = saematch("consistency", "seed_*", "--null-seeds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"decoders {content['pw_mcc_decoder']:.4f}" in done.stdout
    assert "proved to be optimal" in done.stdout


def test_the_command_show_prints_a_comparison_again(tmp_path):
    for name, sae in zip(("seed_1", "seed_2"), PLANTED["noised"], strict=True):
        write_npz(tmp_path / name, sae)
    done = saematch("consistency", "seed_1", "seed_2", "--null-seeds", "1", "-o", "out", cwd=tmp_path)
    shown = saematch("show", "out", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    missing = "  missing: figure firing_rates (no firing rates were given)\n"
    assert done.stdout == f"{shown.stdout}Written to out: consistency.json, tables and figures\n{missing}"
    content = parsed(saematch("show", "out", "--json", cwd=tmp_path))
    assert content == json.loads((tmp_path / "out" / "consistency.json").read_text())
    assert_refused(saematch("show", "out", "--limits", cwd=tmp_path), "not a run; --limits is for runs")


def test_the_command_fails_below_a_limit(tmp_path):
    for name, sae in zip(("a", "b"), PLANTED["noised"], strict=True):
        write_npz(tmp_path / name, sae, np.float64)
    value = numbers_by_scipy(*PLANTED["noised"])["mcc_decoder"]
    command = ("consistency", "a", "b", "--null-seeds", "0", "--quiet", "--fail-under")
    done = saematch(*command, value + 0.01, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"PW-MCC of decoders is {value:.6g}, below {value + 0.01:g}" in done.stderr
    assert saematch(*command, value - 0.01, cwd=tmp_path).returncode == 0
    assert_refused(saematch("consistency", "a", "b", "--names", "c", cwd=tmp_path), "--names has 1 names for 2 SAEs")
    assert_refused(saematch("consistency", "a", cwd=tmp_path), "at least two")
    assert_refused(saematch(*command, "nan", cwd=tmp_path), "--fail-under is nan")
    (tmp_path / "file").touch()
    assert_refused(saematch("consistency", "a", "b", "-o", "file", cwd=tmp_path), "file: cannot be written")


@pytest.mark.through_passes
def test_what_is_not_certified_says_so():
    command = ("consistency", "sample?layer=8-9", "--null-seeds", "0", "--max-rounds", "1", "--json")
    content = parsed(saematch(*command), code=3)
    assert (content["certified"], content["pairs"][0]["certified"]) == (False, False)


def test_equal_directions_count_once_whatever_a_product_rounds():
    """Features of B are copies of a few directions, up to the sign: rounding must not decide which one is nearest."""
    for seed in range(40):
        r = np.random.default_rng(seed)
        F, d, kinds = (int(r.integers(low, high)) for low, high in ((2, 40), (2, 50), (1, 4)))
        W, base = r.standard_normal((F, d)), r.standard_normal((kinds, d))
        kind, sign = r.integers(0, kinds, F), r.choice([-1.0, 1.0], F)
        a, b = (
            made_up(F, d, W_enc=torch.from_numpy(rows.T.copy()), W_dec=torch.from_numpy(rows))
            for rows in (W, base[kind] * sign[:, None])
        )
        found = nearest(a, b, "decoder", torch.device("cpu"))
        cosines = W @ (base / np.linalg.norm(base, axis=1)[:, None]).T
        largest = np.where(np.isin(np.arange(kinds), kind), np.abs(cosines), -1).argmax(axis=1)
        assert found.distinct[0] == len(np.unique(largest))
        assert all((b.W_dec[n] != b.W_dec[i]).any() for n in found.partner for i in range(n))
