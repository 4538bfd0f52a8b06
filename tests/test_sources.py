import io
import itertools
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from record import peak_bytes

import saematch as sm
from saematch.sources.files.tensors import read_tensors
from saes import drawn, made_up, saelens, write_model, write_npz, write_saelens

FLAT = {"architecture": "jumprelu", "d_in": 8, "d_sae": 12, "hook_layer": 7, "apply_b_dec_to_input": False}
NESTED = {
    "architecture": "jumprelu",
    "apply_b_dec_to_input": False,
    "metadata": {"hook_name": "blocks.7.hook_resid_post"},
}


def assert_same(found, expected, dtype=torch.float32):
    for name, tensor in expected.tensors().items():
        assert torch.equal(found.tensors()[name].double(), tensor.to(dtype).double()), name
    assert found.tensors().keys() == expected.tensors().keys()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_gemma_scope_is_read_in_every_precision(tmp_path, dtype):
    sae = made_up()
    found = sm.load(write_npz(tmp_path / "layer_3", sae, dtype))
    kept = {np.float16: torch.float16, np.float64: torch.float64}.get(dtype, torch.float32)
    assert found.W_enc.dtype == (torch.float64 if dtype is np.float64 else torch.float32)
    assert_same(found, sae, kept)


def test_archives_that_other_programs_write_are_read(tmp_path):
    """An extra field before the content, other bytes before the archive, sizes after the content, and both orders."""
    sae = made_up()
    buffer = io.BytesIO(b"other bytes")
    buffer.seek(0, 2)
    with zipfile.ZipFile(buffer, "a") as archive:
        for number, (name, tensor) in enumerate(sae.tensors().items()):
            content = io.BytesIO()
            np.save(content, np.asarray(tensor.numpy(), order="F" if number % 2 else "C"))
            member = zipfile.ZipInfo(f"{name}.npy")
            member.extra = b"\x99\x99\x05\x00extra"
            member.compress_type = zipfile.ZIP_DEFLATED if number == 2 else zipfile.ZIP_STORED
            archive.writestr(member, content.getvalue())
    (tmp_path / "params.npz").write_bytes(buffer.getvalue())
    assert_same(sm.load(tmp_path), sae, torch.float64)

    class Stream(io.RawIOBase):
        """A file that cannot seek: sizes and checksums then follow each content."""

        def writable(self):
            return True

        def write(self, content):
            written.append(bytes(content))
            return len(content)

    written = []
    np.savez(Stream(), **{name: tensor.numpy() for name, tensor in sae.tensors().items()})
    (tmp_path / "params.npz").write_bytes(b"".join(written))
    assert_same(sm.load(tmp_path), sae, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("config", [FLAT, NESTED])
def test_saelens_is_read_in_every_precision(tmp_path, dtype, config):
    sae = made_up()
    assert_same(sm.load(write_saelens(tmp_path, sae, config, dtype)), sae, dtype)
    assert list(sm.load_layers(tmp_path)) == [7]


def test_subtracted_decoder_bias_moves_into_the_encoder_bias(tmp_path):
    sae = made_up(activation="relu").to(torch.float32)
    found = sm.load(write_saelens(tmp_path, sae, {"architecture": "standard", "apply_b_dec_to_input": True}))
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = torch.relu((x - sae.b_dec) @ sae.W_enc.double() + sae.b_enc)
    np.testing.assert_allclose(found.to(torch.float64).encode(x), own, atol=1e-5)


@pytest.mark.parametrize(
    "config", [{"architecture": "topk", "k": 3}, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}]
)
def test_saelens_topk_has_its_k(tmp_path, config):
    found = sm.load(write_saelens(tmp_path, made_up(activation="topk"), config))
    assert (found.activation, found.k) == ("topk", 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "other"}, "'other' is not supported; supported are standard"),
        ({"architecture": "gated"}, "lacks b_gate, b_mag, r_mag and holds b_enc"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm': .* cannot be compared"),
        ({"architecture": "topk"}, "TopK SAE without its k"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_saelens_that_cannot_be_compared_is_refused_with_the_reason(tmp_path, config, message):
    with pytest.raises(sm.MatchError, match=message):
        sm.load(write_saelens(tmp_path, made_up(activation="relu"), config))


def test_saelens_scaling_factor_of_one_is_nothing_and_others_are_refused(tmp_path):
    sae = made_up(activation="relu")
    sm.load(write_saelens(tmp_path / "a", sae, {}, scaling_factor=torch.ones(12)))
    with pytest.raises(sm.MatchError, match="scaling_factor is not 1"):
        sm.load(write_saelens(tmp_path / "b", sae, {}, scaling_factor=torch.full((12,), 2.0)))


def test_layers_are_found_flat_or_nested_and_sorted_as_numbers(tmp_path):
    for layer in (10, 9, 2):
        write_npz(tmp_path / f"layer_{layer}" / "width_2k" / f"average_l0_{layer + 30}", made_up())
    layers = sm.load_layers(tmp_path)
    assert list(layers) == [2, 9, 10]
    assert layers.handles[9].l0 == 39
    assert list(sm.load_layers(write_model(tmp_path / "flat"))) == [3, 4, 5, 11]
    assert layers[9] is not layers[9]


def test_layer_numbers_of_other_spellings(tmp_path):
    for number, name in enumerate(["layers.0", "blocks.1.hook_resid_post", "resid_post_layer_2_16k"]):
        write_npz(tmp_path / name, made_up())
        assert number in sm.load_layers(tmp_path)


def test_the_advice_for_two_saes_of_a_layer_tells_them_apart(tmp_path):
    """The final and intermediate files of a training folder, and two seeds, have the same L0 and width."""
    names = {"a": ("trainer_0/ae.npz", "trainer_0/checkpoints/ae_500.npz"), "b": ("seed1/x.npz", "seed2/x.npz")}
    for home, files in names.items():
        for layer, file in itertools.product((4, 5), files):
            folder = tmp_path / home / f"resid_post_layer_{layer}" / file
            write_npz(folder.parent, made_up()).joinpath("params.npz").rename(folder)
        with pytest.raises(
            sm.MatchError, match=r"two SAEs for layer 4, .*or say which, by a pattern, like "
        ) as refused:
            sm.load_layers(tmp_path / home)
        pattern = str(refused.value).rpartition("like ")[2]
        assert pattern == f"{tmp_path / home}/resid_post_layer_{{layer}}/{files[0]}"
        assert list(sm.load_layers(pattern)) == [4, 5]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("h.{}/x.npz", "h.{layer}/x.npz"),
        ("L{}_run2/a1/x.npz", "L{layer}_run2/a1/x.npz"),
        ("run/{}.npz", "run/{layer}.npz"),
        ("{}/width_16k/l0_4/x.npz", "{layer}/width_16k/l0_4/x.npz"),
        ("a{}/a{}/x.npz", None),
    ],
)
def test_the_advice_for_a_layer_without_a_number_works(tmp_path, name, pattern):
    for layer in (3, 4):
        file = tmp_path / "m" / name.format(layer, layer + 1)
        write_npz(file.parent, made_up()).joinpath("params.npz").rename(file)
    with pytest.raises(sm.MatchError, match=r"name its folder layer_<number>, or say where .* by a pattern") as refused:
        sm.load_layers(tmp_path / "m")
    assert "a mapping of layers to files" in str(refused.value)
    if pattern is not None:
        assert f"by a pattern with {{layer}}, like {tmp_path}/m/{pattern}, or" in str(refused.value)
        assert list(sm.load_layers(f"{tmp_path}/m/{pattern}")) == [3, 4]
    assert list(sm.load_layers({layer: tmp_path / "m" / name.format(layer, layer + 1) for layer in (3, 4)})) == [3, 4]


@pytest.mark.parametrize(
    "names",
    [
        ("0", "500"),
        ("seed_0", "seed_1"),
        ("trainer_0", "trainer_1"),
        ("checkpoints/x1/500480", "checkpoints/x1/900480"),
        ("final_2000896", "final_3000832"),
        ("step=1", "step=2"),
    ],
)
def test_what_counts_seeds_and_steps_of_a_layer_is_not_advised_as_layers(tmp_path, names):
    for name in names:
        saelens(tmp_path / name, drawn(16, 8), metadata={"hook_name": "blocks.3.hook_resid_post"})
    with pytest.raises(sm.MatchError, match=r"two SAEs for layer 3, .*by naming its file, like ") as refused:
        sm.load_layers(tmp_path)
    assert "{layer}" not in str(refused.value)
    assert list(sm.load_layers(str(refused.value).rpartition("like ")[2])) == [3]


@pytest.mark.parametrize("name", ["seed_{}", "trainer_{}", "checkpoints/x/{}", "final_{}", "steps/{}", "x_{}00000"])
def test_what_counts_seeds_and_steps_of_no_known_layer_is_not_advised_either(tmp_path, name):
    for number in (3, 4):
        write_npz(tmp_path / name.format(number), made_up())
    with pytest.raises(sm.MatchError, match=r"by a pattern with \{layer\}, or which layer"):
        sm.load_layers(tmp_path)


def test_a_layer_of_a_pattern_that_the_configuration_contradicts_is_noted(tmp_path):
    for number in (0, 3):
        saelens(tmp_path / str(number), drawn(16, 8), metadata={"hook_name": "blocks.3.hook_resid_post"})
    layers = sm.load_layers(f"{tmp_path}/{{layer}}")
    said = "used as layer 0, as its source says; its files say layer 3"
    assert [said in layers[layer].notes for layer in (0, 3)] == [True, False]
    assert [said in layers.handles[layer].describe().sae.notes for layer in (0, 3)] == [True, False]


def test_other_files_are_left_alone(tmp_path):
    write_model(tmp_path)
    np.savez(tmp_path / "activations.npz", x=np.zeros(3, dtype=int))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "layer_03" / "README.md").write_text("hello")
    assert len(sm.load_layers(tmp_path)) == 4


def test_sample_is_whole_and_labelled(sample):
    assert list(sample) == [8, 9, 10, 11, 12, 13]
    assert (sample[8].F, sample[8].d, sample[8].W_enc.dtype) == (1024, 576, torch.float32)
    assert sample.handles[8].describe().dtype == "float16"
    assert len(sample.handles[8].labels) == 1024
    assert sample.handles[8].labels[384] == "Kn, Ex, Module, Dist, Gn"


class Touch:
    """An object whose pickle writes a file when the pickle is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bad_inputs(folder):
    """Return name -> the path and the message that it must get."""
    sae, saes = made_up(), folder
    whole = write_npz(saes / "whole", sae) / "params.npz"
    truncated = saes / "truncated" / "params.npz"
    truncated.parent.mkdir()
    truncated.write_bytes(whole.read_bytes()[:-400])
    pickled = write_npz(saes / "pickled", sae, W_dec=np.array([Touch(saes / "pwned")], dtype=object))
    lens = write_saelens(saes / "lens", sae, FLAT)
    (lens / "sae_weights.safetensors").write_bytes((lens / "sae_weights.safetensors").read_bytes()[:-50])
    no_json = write_saelens(saes / "no_json", sae, FLAT)
    (no_json / "cfg.json").write_text("{")
    lying = saes / "lying" / "params.npz"
    lying.parent.mkdir()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(lying, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, content.replace(b"(12, 8)", b"(99,99)") if "W_dec" in member else content)
    bomb = saes / "bomb"
    bomb.mkdir()
    np.savez_compressed(bomb / "params.npz", **{k: np.zeros((2000, 2000), np.float32) for k in sae.tensors()})
    (saes / "empty").mkdir()
    (saes / "text.npz").write_text("not an archive")
    model = write_model(saes / "model")
    (model / "layer_06").mkdir()
    twice = write_model(saes / "twice")
    write_npz(twice / "layer_4" / "width_4k", sae)
    nameless = write_npz(saes / "nameless" / "x", sae).parent
    return {
        "missing": (saes / "nothing", "no such file or folder"),
        "truncated npz": (truncated, "cannot be read .* truncated"),
        "truncated safetensors": (lens, "cannot be read .* truncated"),
        "not json": (no_json, "cfg.json: cannot be read"),
        "missing key": (write_npz(saes / "missing_key", sae, W_dec=None), "lacks W_dec; expected W_dec, W_enc, b_dec"),
        "extra key": (write_npz(saes / "extra", sae, b_gate=np.zeros(3)), "holds b_gate, which this format does not"),
        "shape": (write_npz(saes / "shape", sae, b_dec=np.zeros(9)), r"W_enc is \(8, 12\), expected \(9, 12\)"),
        "transposed": (write_npz(saes / "turned", sae, W_enc=sae.W_enc.numpy().T), "W_enc .* looks transposed"),
        "scalar": (write_npz(saes / "scalar", sae, b_enc=np.array(1.0)), "b_enc and b_dec must be vectors"),
        "integers": (
            write_npz(saes / "int", sae, b_enc=np.zeros(12, int)),
            "b_enc is stored as int64; expected float16",
        ),
        "NaN": (
            write_npz(saes / "nan", sae, b_enc=np.full(12, np.nan)),
            r"b_enc holds 12 values .* first at index \(0,\)",
        ),
        "pickle": (pickled, "W_dec is a pickled object; it is not opened"),
        "lying header": (lying, r"W_dec is not as large as its shape \(99, 99\) says"),
        "bomb": (bomb, "expands 50-fold or more"),
        "empty": (saes / "empty", "no SAE in a known format; known are Gemma Scope: params.npz;"),
        "text": (saes / "text.npz", "cannot be read .* not what its name says"),
        "several": (model, "4 SAEs in it, name one of them"),
        "empty layer": (model, "layer_06: the folder of a layer without an SAE"),
        "two for one layer": (twice, "two SAEs for layer 4, .*; choose a folder that holds one"),
        "no layer": (nameless, "no layer number in its path or configuration; name its folder layer_<number>"),
    }


LAYERS_ONLY = {"empty layer", "two for one layer", "no layer"}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return bad_inputs(tmp_path_factory.mktemp("saes"))


NAMES = """missing, truncated npz, truncated safetensors, not json, missing key, extra key, shape, transposed, scalar,
integers, NaN, pickle, lying header, bomb, empty, text, several, empty layer, two for one layer, no layer"""


@pytest.mark.parametrize("name", NAMES.replace("\n", " ").split(", "))
def test_bad_input_gets_a_message_that_helps(damaged, name):
    path, message = damaged[name]
    with pytest.raises(sm.MatchError, match=message):
        (sm.load_layers if name in LAYERS_ONLY else sm.load)(path)
    assert not (path.parent / "pwned").exists()


def test_every_bad_input_is_tried(damaged):
    assert set(damaged) == set(NAMES.replace("\n", " ").split(", "))


@pytest.mark.parametrize(
    "content", ["[]", '{"17": "May"}', '{"features": [{"feature": "x", "tokens": []}]}', '{"features": 3}', "{"]
)
def test_bad_labels_get_a_message(tmp_path, content):
    write_model(tmp_path)
    (tmp_path / "layer_03" / "labels.json").write_text(content)
    with pytest.raises(sm.MatchError, match=r"labels\.json"):
        _ = sm.load_layers(tmp_path).handles[3].labels


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("seed", range(150))
def test_random_damage_is_an_error_or_harmless(tmp_path, seed, save):
    """With flipped bytes, or without its end, a file gives a clear error or tensors, and never another exception."""
    r = np.random.default_rng(seed)
    buffer = io.BytesIO()
    save(buffer, **{name: tensor.numpy() for name, tensor in made_up().tensors().items()})
    content = bytearray(buffer.getvalue())
    for at in r.integers(0, len(content), 3):
        content[at] = r.integers(256)
    (tmp_path / "params.npz").write_bytes(content[: -r.integers(1, 300)] if seed % 5 == 0 else content)
    try:
        found = read_tensors(tmp_path / "params.npz")
    except sm.MatchError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


def test_labels_of_absurd_features_cost_nothing(tmp_path):
    write_model(tmp_path)
    labels = '{"features": [{"feature": 3000000000, "tokens": ["a"]}, {"feature": 2, "tokens": ["b", "c"]}]}'
    (tmp_path / "layer_03" / "labels.json").write_text(labels)
    assert sm.load_layers(tmp_path).handles[3].labels[2] == "b, c"


def test_links_are_followed_and_hidden_folders_are_not(tmp_path):
    write_model(tmp_path / "elsewhere", layers=(1, 2))
    (tmp_path / "model").mkdir()
    for layer in (1, 2):
        (tmp_path / "model" / f"layer_{layer}").symlink_to(tmp_path / "elsewhere" / f"layer_{layer:02d}")
    write_npz(tmp_path / "model" / ".ipynb_checkpoints" / "layer_1", made_up())
    (tmp_path / "elsewhere" / "layer_01" / "layer_1_plots").mkdir()
    (tmp_path / "model" / "self").symlink_to(tmp_path / "model")
    assert list(sm.load_layers(tmp_path / "model")) == [1, 2]


def test_a_folder_named_sample_is_not_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = sm.load_layers(write_model(tmp_path / "sample").relative_to(tmp_path))
    assert list(layers) == [3, 4, 5, 11]
    assert layers.source == str(tmp_path / "sample")


def test_configuration_of_the_layer_is_used_when_the_path_has_none(tmp_path):
    write_saelens(tmp_path / "x", made_up(), {**FLAT, "hook_layer": 3})
    assert list(sm.load_layers(tmp_path)) == [3]
    assert json.loads((tmp_path / "x" / "cfg.json").read_text())["hook_layer"] == 3


def test_a_wide_sae_is_described_in_little_memory(tmp_path):
    """A sparse file has 262,144 features of width 1,152: 2.4 GB that are not on disk, and that must not be read."""
    F, d = 2**18, 1152
    shapes = {"W_enc": (d, F), "W_dec": (F, d), "b_enc": (F,), "b_dec": (d,), "threshold": (F,)}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "sae_weights.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (tmp_path / "cfg.json").write_text(json.dumps(FLAT))
    about, peak = peak_bytes(sm.load_layers(tmp_path).handles[7].describe)
    assert (about.sae.F, about.sae.d, about.bytes) == (F, d, end)
    assert peak < 2**26
