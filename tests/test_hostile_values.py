"""More hostile inputs: values of any kind and size, inconsistent archives, lists, and disks that fill up."""

import io
import json
import pickle
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch

import saematch as sm
from damaged_files import CONTAINERS, write_container, write_list
from hostile_files import (
    ARRAYS,
    HOSTILE,
    MOST_BYTES,
    full_disk,
    npy,
    npy_claiming,
    npz,
    pickled,
    refused,
    rewritten,
    tensors_as_safetensors,
    topk,
)
from saematch.cli.main import main
from saes import (
    SCALED,
    VARIANTS,
    dictionary_learning,
    drawn,
    gemma_scope_2,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    made_up,
    saelens,
    sparsify,
)

pytestmark = pytest.mark.through_passes

DIGITS = "9" * 5000


def duplicated():
    """Return an archive with two arrays of one name. (The archive warns while it is made.)"""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w") as archive:
        for name, array in [*ARRAYS.items(), ("W_enc", ARRAYS["W_enc"] + 1)]:
            archive.writestr(f"{name}.npy", npy(array))
    return buffer.getvalue()


def old_storage(count):
    """Return a file from before version 1.6 that claims a storage of `count` numbers, followed by an archive."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count, None) if value == "here" else None

    class Rebuilt:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, ("here", 0, (3,), (1,), False, OrderedDict())

    buffer = io.BytesIO()
    head = {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}
    for value in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, head):
        pickle.dump(value, buffer, protocol=2)
    Persistent(buffer, protocol=2).dump({"W": Rebuilt()})
    pickle.dump(["0"], buffer, protocol=2)
    return buffer.getvalue() + struct.pack("<q", count) + topk()


def empty(*shape):
    return np.zeros(shape, np.float32)


NPZ = {
    "huge header in little": lambda: npz(zipfile.ZIP_DEFLATED, W_enc=npy_claiming(b" " * 2**28, version=2)),
    "bomb in bzip2": lambda: npz(zipfile.ZIP_BZIP2, W_enc=np.zeros(2**25, np.float32)),
    "one array twice": duplicated,
    "message as long as its header": npz(W_enc=npy_claiming(f"{{'descr': '<f4', 'shape': ({DIGITS},)}}".encode())),
    "no feature": npz(W_enc=empty(8, 0), W_dec=empty(0, 8), b_enc=empty(0), threshold=empty(0)),
    "no width": npz(W_enc=empty(0, 12), W_dec=empty(12, 0), b_dec=empty(0)),
}
NOTHING = {"W_enc": (8, 0), "W_dec": (0, 8), "b_enc": (0,), "threshold": (0,)}
SAFETENSORS = {"no feature": tensors_as_safetensors(**{name: torch.zeros(shape) for name, shape in NOTHING.items()})}
ON_META = {"encoder_weight": (12, 8), "decoder_weight": (8, 12), "encoder_bias": (12,), "b_dec": (8,)}
TORCH = {
    "values cut": rewritten(topk(), lambda name, old: (name, old[:8] if name.endswith("data/0") else old)),
    "bytes of any number": pickled(b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\nbytearray\nJ\x00\x00\x00\x10\x85Rs."),
    "a storage of any size, an archive behind it": old_storage(2**26),
    "tensors on no device": topk(
        **{
            name: torch.zeros(shape, device="meta")
            for name, shape in {
                "encoder_weight": (12, 8),
                "decoder_weight": (8, 12),
                "encoder_bias": (12,),
                "b_dec": (8,),
            }.items()
        }
    ),
    "scalar matrix": topk(encoder_weight=torch.tensor(1.0)),
    "three dimensions": topk(encoder_weight=torch.zeros(2, 6, 8)),
}
INF, HUGE = float("inf"), 10**400
BAD_SHAPE = torch.zeros(5)
TYPES = [
    *((partial(saelens, kind="topk"), {"k": value}) for value in (INF, -INF)),
    (partial(sparsify), {"k": INF}),
    (partial(llamascopium, function="topk"), {"top_k": INF}),
    (partial(dictionary_learning, kind="AutoEncoderTopK"), {"k": INF}),
    *((sparsify, {"num_latents": value}) for value in ("16x", [16], {"a": 1}, INF)),
    (sparsify, {"extra": {"b_dec": torch.tensor(1.0)}}),
    (sparsify, {"extra": {"encoder.bias": torch.tensor(1.0)}}),
    *((gemma_scope_2, {"hf_hook_point_in": value}) for value in (3, ["a"], {"a": 1}, True)),
    (gemma_scope_2, {"l0": HUGE}),
    (partial(saelens, kind="standard finetuned"), {"extra": {"scaling_factor": torch.tensor(2.0)}}),
    (partial(saelens, kind="standard finetuned"), {"extra": {"scaling_factor": BAD_SHAPE}}),
    (saelens, {"extra": {"scaling_factor": torch.ones(5)}}),
    *((partial(saelens, kind="gated"), {"extra": {name: BAD_SHAPE}}) for name in ("b_gate", "b_mag", "r_mag")),
    (llama_scope, {"jump_relu_threshold": HUGE}),
    *((llama_scope, {"d_model": value}) for value in (HUGE, -8, 16, True)),
    *(
        (llama_scope, {"dataset_average_activation_norm": {"in": value, "out": 1.0}})
        for value in ("x", 0, None, [1], HUGE, -2.0, INF)
    ),
    *((llama_scope, {"hook_point_in": value, "hook_point_out": value}) for value in (3, ["a"])),
    *(
        (llamascopium, {"hook_point_in": value, "hook_point_out": value, "norm_activation": "inference"})
        for value in (3, ["a"])
    ),
    *((llamascopium, {"d_model": value}) for value in (HUGE, -8)),
    (llamascopium, {"norm_activation": "no such"}),
    (llama_scope, {"norm_activation": "token-wise"}),
    (llama_scope_r1, {"norm_activation": "token-wise"}),
]
LISTS = {
    "truth that is none": "- !!bool maybe",
    "a time that is none": "- !!timestamp abc",
    "no number": "- !!int ''",
    "no fraction": "- !!float ''",
    "a name that no disk holds": "- " + "a" * 300,
    "a number to the base of 60": "- " + ":".join(["1"] * 200_000),
}


OF = {"npz": NPZ, "safetensors": SAFETENSORS, "torch": TORCH}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, named in OF.items() for name in named])
def test_container(tmp_path, kind, name):
    sm.load(write_container(tmp_path / "good", kind, CONTAINERS[kind][1]))
    message, peak = refused(write_container(tmp_path / "bad", kind, OF[kind][name]))
    assert len(message) < 800
    assert peak < MOST_BYTES


@pytest.mark.parametrize("number", range(len(TYPES)))
def test_types(tmp_path, number):
    made, changes = TYPES[number]
    made(tmp_path / "saes", drawn(16, 8), **changes)
    message, _ = refused(tmp_path / "saes")
    assert len(message) < 800


@pytest.mark.parametrize("name", LISTS)
def test_lists(tmp_path, name):
    began = time.process_time()  # not the time that other programs take
    refused(write_list(tmp_path, LISTS[name]))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", HOSTILE)
def test_messages_hold_no_terminal_codes_nor_advice_to_unpickle(tmp_path, name):
    message, _ = refused(write_container(tmp_path, "torch", pickled(HOSTILE[name])))
    assert message.isprintable()
    assert "weights_only" not in message


def test_a_path_that_no_disk_holds():
    with pytest.raises(sm.MatchError):
        sm.load("a" * 300)


@pytest.mark.parametrize("l0", ["NaN", "Infinity"])
def test_info_json_of_an_l0_that_is_no_number(tmp_path, l0, capsys):
    gemma_scope_2(tmp_path / "saes", drawn(16, 8))
    config = tmp_path / "saes/resid_post_all/16k_l0_small/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "l0": 0}).replace('"l0": 0', f'"l0": {l0}'))
    assert main(["info", str(tmp_path), "--json"]) in (0, 3)


def test_a_description_has_the_k_that_reading_finds_in_the_file(tmp_path):
    dictionary_learning(tmp_path / "saes", drawn(16, 8), "AutoEncoderTopK", k=None)
    assert sm.load_layers(tmp_path / "saes").handles[5].describe().sae.k == sm.load(tmp_path / "saes").k == 3


@pytest.mark.parametrize("where", ["checkpoints/final.safetensors", "checkpoints"])
def test_llama_scope_is_read_by_the_path_of_its_weights(tmp_path, where):
    llama_scope(tmp_path / "saes", drawn(16, 8))
    assert sm.load(tmp_path / "saes" / where).F == 16


def test_dictionary_learning_checkpoints_are_read_by_their_path(tmp_path):
    dictionary_learning(tmp_path / "saes", drawn(16, 8), "BatchTopKSAE", file="checkpoints/ae_500.pt")
    assert sm.load(tmp_path / "saes/trainer_0/checkpoints/ae_500.pt").F == 16


@pytest.mark.parametrize("name", [name for name in VARIANTS if "r1 norms=folded" in name])
def test_notes_of_weights_that_are_for_raw_activations_already(tmp_path, name):
    own = VARIANTS[name](tmp_path / "saes", drawn(16, 8))
    assert (SCALED in " ".join(sm.load(tmp_path / "saes").notes)) == (SCALED in own.notes)


def test_notes_of_an_unknown_scale_claim_no_raw_activations(tmp_path):
    llama_scope(tmp_path / "saes", drawn(16, 8), scale=1)
    assert SCALED not in " ".join(sm.load(f"{tmp_path}/saes?allow=unknown_scale").notes)


def test_saelens_on_a_full_disk(tmp_path):
    with full_disk(), pytest.raises(sm.MatchError, match="cannot be written"):
        made_up().save(tmp_path / "x", "saelens")
    assert list((tmp_path / "x").iterdir()) == []


def test_saelens_overwritten_on_a_full_disk_is_still_whole(tmp_path):
    made_up().save(tmp_path / "x")
    before = {path: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    with full_disk(), pytest.raises(sm.MatchError, match="cannot be written"):
        made_up(activation="topk").save(tmp_path / "x", overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before


def test_a_configuration_of_something_else_is_not_replaced_unasked(tmp_path):
    (tmp_path / "cfg.json").write_text("precious")
    with pytest.raises(sm.MatchError):
        made_up().save(tmp_path)


def test_one_tensor_in_two_places_is_saved(tmp_path):
    zeros = torch.zeros(8)
    made_up(8, 8, "relu", b_enc=zeros, b_dec=zeros).save(tmp_path)
    assert sm.load(tmp_path).F == 8
