"""The meaning of the text of a source: patterns, choices, lists. (`test_hub.py` tests sources on the hub.)"""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

import saematch as sm
from saematch.cli.main import main
from saematch.sources.address import matcher, placeholder_values
from saes import made_up, write_model, write_npz, write_saelens


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Return a folder with two widths and three L0s of layers 2, 9 and 10, in the layout of Gemma Scope."""
    root = tmp_path_factory.mktemp("suite") / "suite"
    for layer in (2, 9, 10):
        for width in ("16k", "65k"):
            for l0 in (21 + layer, 90 + layer, 300):
                seed = 1000 * layer + l0 + (width == "65k")
                folder = root / f"layer_{layer}" / f"width_{width}" / f"average_l0_{l0}"
                write_npz(folder, made_up(seed=seed))
    return root


def l0s(source):
    return {layer: stored.l0 for layer, stored in sm.load_layers(source).handles.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("?width=16k&l0=near:100", {2: 92, 9: 99, 10: 100}),
        ("?width=16K&l0=min", {2: 23, 9: 30, 10: 31}),
        ("?width=65k&l0=max", {2: 300, 9: 300, 10: 300}),
        ("?width=65k&l0=300&layer=9-11", {9: 300, 10: 300}),
        ("?width=65k&l0=300&layer=10,2", {2: 300, 10: 300}),
        ("/layer_{layer}/width_{width}/average_l0_{l0}?width=16k&l0=near:25", {2: 23, 9: 30, 10: 31}),
        ("/layer_{layer}/width_16k/average_l0_300", {2: 300, 9: 300, 10: 300}),
        ("/layer_{layer}/{some}/average_l0_300/params.npz?some=width_65k&layer=9", {9: 300}),
        ("/layer_*/*_16k/*_300", {2: 300, 9: 300, 10: 300}),
        ("/**/width_16k/average_l0_300/*.npz", {2: 300, 9: 300, 10: 300}),
        ("/layer_9/width_16k?l0=near:100", {9: 99}),
    ],
)
def test_one_sae_a_layer_is_chosen(suite, text, expected):
    found = l0s(f"{suite}{text}")
    assert found == expected
    assert list(found) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"6 SAEs for layer 2, .*l0_23.* or say which, like \?l0=near:100 or \?width=16k"),
        ("?l0=near:100", "two SAEs for layer 2, .*width_16k.*width_65k"),
        ("?width=16k&l0=71", "no SAE of l0 71; there are 23, 30, 31, 92, 99, 100, 300"),
        ("?width=1m", "no SAE of width 1m; there are 16k, 65k"),
        ("?layer=2,3", "no SAE of layer 2,3; there are 2, 9, 10"),
        ("?layer=two", "layer=two: give numbers or ranges, like 8-13 or 8,9"),
        ("?layer=9-2", "layer=9-2: a range goes upwards, like 8-13"),
        ("?l0=near:inf", "l0=near:inf: give a number, near:100, min or max"),
        ("?l0=71&width=16k&l0=20", "the option l0 is given 2 times; give it once"),
        ("?l0=near:some", "l0=near:some: give a number, near:100, min or max"),
        ("?depth=3", "no option 'depth'; there are allow, family, head, k, map, scale, to, layer, l0, width"),
        ("?revision=main", "no option 'revision'"),
        ("?allow=nothing", "allow=nothing is not known; known are attention, "),
        ("?l0", "after . come options like l0=near:100&width=16k"),
        ("/layer_{layer}/nothing", "there is no layer_{layer}/nothing; there are layer_2/width_16k, "),
        ("/nothing?l0=min", "no such file or folder"),
    ],
)
def test_what_cannot_be_chosen_says_what_there_is(suite, text, message):
    with pytest.raises(sm.MatchError, match=message):
        sm.load_layers(f"{suite}{text}")


def test_l0_that_no_file_says_cannot_be_chosen_by_number(tmp_path):
    write_npz(tmp_path / "layer_1", made_up())
    with pytest.raises(sm.MatchError, match=r"L0 of .*layer_1/params.npz is not known; choose by name instead"):
        sm.load_layers(f"{tmp_path}?l0=min")


def test_a_path_that_is_there_is_taken_as_it_is(tmp_path):
    odd = tmp_path / "odd {layer}*?l0=3"
    write_npz(odd / "layer_4", made_up())
    assert list(sm.load_layers(str(odd))) == list(sm.load_layers(odd)) == [4]
    layers = sm.load_layers([f"{odd / 'layer_4'}?family=gemma_scope"])
    assert layers.source == {"4": f"{odd / 'layer_4' / 'params.npz'}?family=gemma_scope"}
    assert list(sm.load_layers(layers.source)) == [4]


@pytest.mark.parametrize(
    ("pattern", "name", "said"),
    [
        ("a/{layer}", "a/12/x.npz", ({"layer": "12"}, True)),
        ("a/{layer}", "a/x", None),
        ("a/{layer}", "a/12b", None),
        ("a/{layer}", "a/12345", None),
        ("{layer}-{layer}", "3-3", ({"layer": "3"}, False)),
        ("{layer}-{layer}", "3-4", None),
        ("{below}", "x/y", ({"below": "x"}, True)),
        ("a.b/*", "acb/x", None),
        ("**/x", "x", ({}, False)),
        ("{", "{/x", ({}, True)),
        ("{²}", "{²}", ({}, False)),
        ("", "any/thing", ({}, True)),
    ],
)
def test_patterns(pattern, name, said):
    match = matcher(pattern).fullmatch(name)
    assert (match and placeholder_values(match)) == said


@pytest.mark.parametrize("pattern", ["*a*a*a*z", "**/a/**/b/**", "{a}{b}*{c}"])
def test_patterns_that_could_take_for_ever_are_refused(suite, pattern):
    with pytest.raises(sm.MatchError, match=r"at most 3 of \* and \{…\} in one name, and 2 \*\* in all"):
        sm.load_layers(f"{suite}/{pattern}")


def test_the_worst_of_patterns_ends_soon(tmp_path):
    write_npz(tmp_path / ("a" * 120) / ("a" * 120), made_up())
    for pattern in ("*a*a*z", "**/*a/**/*az", "**/**/z"):
        with pytest.raises(sm.MatchError, match="there is no "):
            sm.load_layers(f"{tmp_path}/{pattern}")


def test_an_sae_is_read_from_where_it_was_found(tmp_path, monkeypatch):
    for name in ("a", "b"):
        for layer in (1, 2):
            write_npz(tmp_path / name / "m" / f"layer_{layer}", made_up(seed=10 * layer + (name == "b")))
    monkeypatch.chdir(tmp_path / "a")
    layers = sm.load_layers("m")
    monkeypatch.chdir(tmp_path / "b")
    assert torch.equal(layers[1].W_enc, made_up(seed=10).W_enc.float())
    sm.match_layers(layers, tmp_path / "run")
    records = [json.loads(file.read_text()) for file in (tmp_path / "run").rglob("*.json")]
    assert all(str(tmp_path / "a" / "m") in json.dumps(record) for record in records)
    assert not any(str(tmp_path / "b") in json.dumps(record) for record in records)


@pytest.mark.parametrize("name", ["c?q", "c{layer}", "c{k}", "c*", "c?l0=3"])
def test_a_pattern_below_a_folder_of_any_name(tmp_path, name, monkeypatch):
    for layer in (1, 2):
        write_npz(tmp_path / name / "m" / f"layer_{layer}", made_up(seed=layer))
    monkeypatch.chdir(tmp_path / name)
    layers = sm.load_layers("m/layer_{layer}?layer=1-2")
    assert list(layers) == [1, 2]
    monkeypatch.chdir(tmp_path)
    assert list(sm.load_layers(layers.source)) == [1, 2]
    (tmp_path / name / "list.yaml").write_text("- m/layer_1\n- m/layer_{layer}?layer=2")
    assert list(sm.load_layers(f"{name}/list.yaml")) == [1, 2]


def test_links_lead_to_saes_more_than_once_but_not_in_circles(tmp_path):
    write_npz(tmp_path / "all" / "layer_1", made_up(seed=1))
    (tmp_path / "all" / "layer_2").symlink_to("layer_1")
    (tmp_path / "all" / "layer_1" / "up").symlink_to("..")
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "layer_3").symlink_to("../all/layer_1")
    assert list(sm.load_layers(tmp_path / "all")) == [1, 2]
    assert list(sm.load_layers(f"{tmp_path}/ch*/layer_{{layer}}")) == [3]


@pytest.mark.parametrize("source", ["", "?layer=3"])
def test_a_source_that_is_empty_is_no_source(source):
    with pytest.raises(sm.MatchError, match="names no file, folder or address"):
        sm.load_layers(source)


@pytest.mark.parametrize("name", ["k", "scale", "family", "allow", "revision"])
def test_what_says_how_to_read_is_no_placeholder(tmp_path, name):
    with pytest.raises(sm.MatchError, match=rf"give the placeholder \{{{name}\}} another name"):
        sm.load_layers(f"{tmp_path}/{name}_{{{name}}}?{name}=3")


def test_digits_of_other_scripts_and_endless_ones_are_names(tmp_path):
    write_npz(tmp_path / "1²2" / "layer_4", made_up())
    write_npz(tmp_path / ("9" * 200) / "layer_5", made_up())
    assert list(sm.load_layers(tmp_path)) == [4, 5]
    write_npz(tmp_path / f"layer_{'9' * 200}", made_up())
    with pytest.raises(sm.MatchError, match="no layer number in its path"):
        sm.load_layers(tmp_path)


@pytest.mark.parametrize("l0", ["nan", "inf", "infinity"])
def test_an_l0_that_is_no_number_is_a_name(tmp_path, capsys, l0):
    write_npz(tmp_path / "layer_1" / f"average_l0_{l0}", made_up())
    assert main(["info", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["l0"] is None
    assert list(sm.load_layers(f"{tmp_path}?l0={l0}")) == [1]
    with pytest.raises(sm.MatchError, match="is not known; choose by name instead"):
        sm.load_layers(f"{tmp_path}?l0=near:3")


def test_the_digits_of_an_l0_may_come_again_in_the_name(tmp_path):
    for l0 in (10, 50):
        folder = write_npz(tmp_path / f"layer_3/sparsity_{l0}", made_up())
        (folder / "params.npz").rename(folder / "ae_500.npz")
    found = sm.load_layers(f"{tmp_path}/layer_{{layer}}/sparsity_{{l0}}/ae_500.npz?l0=near:40")
    assert found.handles[3].l0 == 50


@pytest.mark.parametrize("text", ["", "?", "/"])
def test_a_layer_without_an_sae_is_said_however_the_folder_is_named(tmp_path, text, monkeypatch):
    write_npz(tmp_path / "layer_1", made_up())
    (tmp_path / "layer_2").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for source in (f"{tmp_path}{text}", f"~/{tmp_path.name}{text}"):
        with pytest.raises(sm.MatchError, match="layer_2: the folder of a layer without an SAE"):
            sm.load_layers(source)
    assert list(sm.load_layers(f"{tmp_path}?layer=1-2")) == [1]


@pytest.mark.parametrize("mapping", [False, True])
def test_a_list_of_sources(suite, tmp_path, mapping):
    write_npz(tmp_path / "mine", made_up(seed=5))
    texts = {7: "mine", 8: f"{suite}/layer_9?width=16k&l0=min", 9: str(suite / "layer_2" / "width_65k/average_l0_300")}
    if not mapping:
        write_npz(tmp_path / "layer_7", made_up(seed=5))
        texts[7] = "layer_7/params.npz"
    lines = [f"{layer}: {text}" if mapping else f"- {text}" for layer, text in texts.items()]
    (tmp_path / "list.yaml").write_text("\n".join(lines))
    layers = sm.load_layers(tmp_path / "list.yaml")
    assert list(layers) == ([7, 8, 9] if mapping else [2, 7, 9])
    assert torch.equal(layers[7].W_enc, made_up(seed=5).W_enc.float())
    assert layers.handles[8 if mapping else 9].l0 == 30
    assert list(sm.load_layers(f"{tmp_path / 'list.yaml'}?layer=7")) == [7]
    there = {layer: str(tmp_path / text) for layer, text in texts.items()}
    in_python = sm.load_layers(there if mapping else tuple(there.values()))
    assert in_python.source == layers.source == {str(layer): one.shown for layer, one in layers.handles.items()}
    assert sm.load_layers(layers.source).source == layers.source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- ../elsewhere", "without going up"),
        ("- ../elsewhere/layer_1/params.npz", "without going up"),
        ("- x?/../../elsewhere/layer_1", "without going up"),
        ("- here\n- nothing-here", r"list.yaml, row 2: .*nothing-here: no such file or folder"),
        ("- ~/nothing", f"{Path.home()}/nothing: no such file or folder"),
        ("8: a\n9: b\n8: c", "list.yaml: layer 8 is listed 2 times"),
        ("- s3://bucket/saes", "SAEs are read from paths, from hf://organisation/name and saelens://release"),
        ("- other.yaml", "a list may name SAEs, but no other lists"),
        ("- [a]", "expected a list of paths or addresses, or a mapping of layer numbers"),
        ("one: a", "list.yaml, row 1: .*a: no such file or folder"),
        ("one: here\none: here", "list.yaml: 'one' is listed 2 times"),
        ("one;: here", "'one;' cannot be a name"),
        ("'': here", "'' cannot be a name"),
        ("[]", "expected a list of paths"),
        ("a: b: c", "list.yaml: cannot be read"),
        ("- !!python/object/apply:os.system ['true']", "expected a list of paths"),
    ],
)
def test_a_bad_list_gets_a_message(tmp_path, text, message):
    write_npz(tmp_path.parent / "elsewhere" / "layer_1", made_up())
    write_npz(tmp_path / "here" / "layer_3", made_up())
    (tmp_path / "x?").mkdir()
    for name in ("list.yaml", "list.YML"):
        (tmp_path / name).write_text(text)
        with pytest.raises(sm.MatchError, match=message.replace("list.yaml", name)):
            sm.load_layers(tmp_path / name)


def test_a_home_in_a_list_is_the_same_wherever_the_list_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "layer_1", made_up())
    (tmp_path / "list.yaml").write_text("- ~/layer_1")
    monkeypatch.chdir(tmp_path)
    assert sm.load_layers("list.yaml").source == sm.load_layers(tmp_path / "list.yaml").source


@pytest.mark.parametrize("text", ["", "/layer_{layer}/width_16k/average_l0_{l0}"])
def test_a_layer_may_have_the_number_of_an_l0(tmp_path, text):
    for layer in (19, 20):
        for l0 in (20, 71, 139):
            write_npz(tmp_path / f"layer_{layer}" / "width_16k" / f"average_l0_{l0}", made_up())
    for wanted, l0 in (("near:70", 71), ("min", 20), ("max", 139)):
        found = sm.load_layers(f"{tmp_path}{text}?l0={wanted}").handles
        assert {layer: stored.l0 for layer, stored in found.items()} == {19: l0, 20: l0}
    with pytest.raises(sm.MatchError, match="l0=near:nan: give a number"):
        sm.load_layers(f"{tmp_path}?l0=near:nan")


def test_a_pattern_may_name_the_l0_in_its_own_way(tmp_path):
    for name in ("layer_20/x_20", "layer_20/x_71", "layer_7/x_7", "layer_7/x_20"):
        write_npz(tmp_path / name, made_up())
    found = sm.load_layers(f"{tmp_path}/layer_{{layer}}/x_{{l0}}?l0=min").handles
    assert {layer: stored.l0 for layer, stored in found.items()} == {7: 7, 20: 20}


def test_a_list_that_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "list.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("list.yaml", "zero.yaml"):
        with pytest.raises(sm.MatchError, match="is not a regular file"):
            sm.load_layers(tmp_path / name)


@pytest.mark.parametrize("source", [[], {}, 7, None, [["a"]], {"one": 7}, {1.5: "a"}, {"one": "a", 2: "b"}, [1], [""]])
def test_what_is_no_source_gets_a_message(source):
    with pytest.raises(sm.MatchError, match="the source: expected a list of paths or addresses"):
        sm.load_layers(source)


def test_an_address_means_the_same_from_another_folder(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(suite.parent)
    layers = sm.load_layers("suite/layer_{layer}?width=16k&l0=near:100")
    sm.match_layers(layers, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == layers.source
    again = sm.load_layers(layers.source)
    assert [again.handles[layer].shown for layer in again] == [
        str(suite.parent / stored.shown) for stored in layers.handles.values()
    ]
    assert sm.Chain.load(tmp_path / "run").compose(2, 10).cost > 0  # which reads the SAEs again


def test_what_is_read_with_other_options_is_another_input(tmp_path):
    for layer in (1, 2):
        write_saelens(tmp_path / "saes" / f"layer_{layer}", made_up(seed=layer), {"architecture": "jumprelu"})
    sm.match_layers(sm.load_layers(f"{tmp_path}/saes?scale=2"), tmp_path / "run")
    assert sm.match_layers(sm.load_layers(f"{tmp_path}/saes?scale=2"), tmp_path / "run").complete
    with pytest.raises(sm.MatchError, match="has changed since pair 1-2 was matched"):
        sm.match_layers(sm.load_layers(f"{tmp_path}/saes?scale=3"), tmp_path / "run")


def test_the_scale_of_activations_may_be_said_of_any_sae(tmp_path):
    sae = made_up().to(torch.float32)
    found = sm.load(f"{write_npz(tmp_path, sae)}?scale=4")
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.encode(x), sae.to(torch.float64).encode(4 * x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.decode(sae.b_enc), sae.to(torch.float64).decode(sae.b_enc) / 4, rtol=1e-12, atol=0)
    assert "read with scale=4" in found.notes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("scale=0", "scale=0: give a positive number"),
        ("scale=much", "give a positive number"),
        ("k=3", "k= is for TopK SAEs, and this SAE is jumprelu"),
        ("family=mine", "family=mine: known are gemma_scope, "),
        ("family=qwen_scope", "holds threshold, which this format does not know"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, option, message):
    with pytest.raises(sm.MatchError, match=message):
        sm.load(f"{write_npz(tmp_path, made_up())}?{option}")


def test_stored_saes_can_be_sent_to_another_process(suite):
    layers = sm.load_layers(f"{suite}?width=16k&l0=min")
    layers.handles[2].describe()
    sent = pickle.loads(pickle.dumps(layers))
    assert torch.equal(sent[2].W_enc, layers[2].W_enc)
    assert sent.handles[2].describe().sae.F == 12


def test_dry_run_shows_what_a_run_would_be_of(suite, capsys, monkeypatch):
    monkeypatch.setattr("saematch.sources.checkpoint.read_tensors", lambda *_: pytest.fail("weights were read"))
    one, other = f"{suite}?width=16k&l0=near:100", str(suite / "layer_9" / "width_65k" / "average_l0_300")
    assert main(["layers", one, "--against", other, "--pairs", "all", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "layer_10/width_16k/average_l0_100/params.npz" in shown
    assert "3 pairs: 2-9, 9-9, 10-9" in shown
    assert main(["layers", f"{suite}?width=16k&l0=near:100", "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["pairs"] == [[2, 9], [9, 10]]
    assert [row["l0"] for row in answer["sets"][0]["layers"]] == [92, 99, 100]
    assert answer["bytes"] > 0


def test_the_paths_of_a_table_can_be_copied(suite, tmp_path, capsys, monkeypatch):
    def shown(*sources):
        (tmp_path / "list.yaml").write_text("\n".join(f"- {source}" for source in sources))
        assert main(["info", "list.yaml"]) == 0
        lines = capsys.readouterr().out.splitlines()
        start = next((line.removeprefix("paths are below ") for line in lines if "below" in line), "")
        return [start + line.split()[-1] for line in lines[2 : 2 + len(sources)]]

    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "layer_1", made_up())
    one, other = (f"{suite}/layer_{layer}/width_16k/average_l0_300/params.npz" for layer in (2, 9))
    assert shown(one) == [one]
    assert shown(one, other) == [one, other]
    assert shown(one, one) == [one, one]
    assert shown("layer_1/params.npz", one) == ["layer_1/params.npz", one]


def test_dry_run_finds_what_cannot_be_compared(tmp_path, capsys):
    write_saelens(tmp_path / "layer_1", made_up(activation="relu"), {})
    write_npz(tmp_path / "layer_2", made_up())
    assert main(["layers", str(tmp_path), "--dry-run"]) == 2
    assert "needs a JumpReLU threshold" in capsys.readouterr().err


def test_info_says_what_was_changed(tmp_path, capsys):
    for layer in (1, 2):
        write_saelens(tmp_path / f"layer_{layer}", made_up(activation="relu"), {"apply_b_dec_to_input": layer == 1})
    assert main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "note: layer 1: b_dec is subtracted from the input: folded into b_enc" in shown
    assert main(["info", str(write_model(tmp_path / "plain"))]) == 0
    assert "note:" not in capsys.readouterr().out


def test_decoder_rows_that_are_not_unit_are_noted(tmp_path, caplog):
    sae = made_up()
    unit = made_up(W_dec=sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True))
    with caplog.at_level("INFO", "saematch"):
        assert sm.load(write_npz(tmp_path / "unit", unit)).notes == ()
        assert not caplog.records
        assert "decoder rows are not unit: norms from" in sm.load(write_npz(tmp_path / "not", sae)).notes[-1]
        assert "decoder rows are not unit" in caplog.text
