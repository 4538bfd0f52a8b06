"""Files that are cut, bent, lying or hostile: each is refused in one sentence, in little memory, and runs nothing."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from record import status
from safetensors.torch import save

import saematch as sm
from saematch.cli.main import main
from saematch.evaluation import StoredActivations, evaluate
from saematch.evaluation.endpoint import EndpointJudge
from saematch.evaluation.meaning import read_grades
from saematch.evaluation.texts import Texts
from saematch.matching.files import read_permutation
from saematch.report import Contents
from saematch.sources import search
from saes import (
    dictionary_learning,
    drawn,
    gemma_scope_2,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    made_up,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)

MOST_BYTES = 2**25  # of memory; what is claimed by the larger lies is a thousand times as much
CANARY = "canary"  # a file that hostile ones try to make, where the tests run
ARRAYS = {name: tensor.numpy() for name, tensor in made_up().to(torch.float32).tensors().items()}
TENSORS = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
HOSTILE = {
    "os.system": f"cos\nsystem\n(S'touch {CANARY}'\ntR.".encode(),
    "open": f"c__builtin__\nopen\n(S'{CANARY}'\nS'w'\ntR.".encode(),
    "eval": f'c__builtin__\neval\n(S\'open("{CANARY}", "w")\'\ntR.'.encode(),
    "getattr": f"c__builtin__\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch {CANARY}'\ntR.".encode(),
    "torch.load": f"ctorch\nload\n(S'{CANARY}'\ntR.".encode(),
    "numpy": b"cnumpy.core.multiarray\nscalar\n(S'f8'\nS'12345678'\ntR.",
}


class Touch:
    """An object whose pickle makes the canary when it is opened."""

    def __reduce__(self):
        return (open, (CANARY, "w"))


def npy(array, version=(1, 0)):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version, allow_pickle=True)
    return buffer.getvalue()


def npy_claiming(text, data=b"", version=1):
    """An array with a header of one's own."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def claiming(shape, dtype="<f4"):
    return npy_claiming(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode(), bytes(384))


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npz(compression=zipfile.ZIP_STORED, **changes):
    """The good file, but for some members: an array, bytes, or None for one that is not there."""
    members = {**ARRAYS, **changes}
    stored = {
        name: value if isinstance(value, bytes) else npy(value) for name, value in members.items() if value is not None
    }
    return zipped({f"{name}.npy": content for name, content in stored.items()}, compression)


def patched(content, mark, offset, value):
    """Bytes with others written over them after every mark."""
    content, at = bytearray(content), -1
    while (at := content.find(mark, at + 1)) >= 0:
        content[at + offset : at + offset + len(value)] = value
    return bytes(content)


def safetensors(text=None, length=None, data=None, **changes):
    """The good file, but for some entries of its header (None: not there), its header, its length or its data."""
    good = save(TENSORS)
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    for name, change in changes.items():
        header[name] = {**header.get(name, {}), **change} if isinstance(change, dict) else change
    header = {name: entry for name, entry in header.items() if entry is not None}
    text = json.dumps(header).encode() if text is None else text
    text += b" " * (-len(text) % 8)
    data = good[8 + size :] if data is None else data
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensors_as_safetensors(**changes):
    changed = {**TENSORS, **changes}
    return save({name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None})


def torch_file(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def topk(**changes):
    """A dictionary as `AutoEncoderTopK` saves it, but for some values (None: not there)."""
    good = {
        "encoder_weight": TENSORS["W_dec"],
        "decoder_weight": TENSORS["W_enc"],
        "encoder_bias": TENSORS["b_enc"],
        "b_dec": TENSORS["b_dec"],
        "k": torch.tensor(3),
        "threshold": torch.tensor(-1.0),
    }
    changed = {name: value for name, value in {**good, **changes}.items() if value is not None}
    return torch_file({name.replace("coder_", "coder."): value for name, value in changed.items()})


def rewritten(content, change, compression=zipfile.ZIP_STORED):
    """An archive with its members changed: name, bytes -> name, bytes, or None to leave it out."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [change(name, archive.read(name)) for name in archive.namelist()]
    return zipped(dict(member for member in members if member), compression)


def overlapping(content, *names):
    """An archive whose members are the same bytes: the header of each passes over those of the next."""
    sizes, heads, tail = (zlib.crc32(content), len(content), len(content)), [], b""
    for name in (f"{name}.npy".encode() for name in reversed(names)):
        quote = struct.pack("<HH", 0x9999, len(tail)) if tail else b""
        fields = 20, 0, 0, 0, 0, *sizes, len(name), len(quote) + len(tail)
        heads.insert(0, struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + name + quote)
        tail = heads[0] + tail
    central, at = b"", 0
    for name, head in zip(names, heads, strict=True):
        fields = 20, 20, 0, 0, 0, 0, *sizes, len(f"{name}.npy"), 0, 0, 0, 0, 0, at
        central += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *fields) + f"{name}.npy".encode()
        at += len(head)
    counts = 0, 0, len(names), len(names), len(central), len(tail) + len(content), 0
    return tail + content + central + struct.pack("<4s4H2LH", b"PK\x05\x06", *counts)


def pickled(content):
    """A file of torch's, with another pickle in it."""
    return rewritten(topk(), lambda name, old: (name, content if name.endswith("data.pkl") else old))


def zeros():
    """As much as nothing when it is compressed."""
    return {name: np.zeros((3000, 3000), np.float32) for name in ("W_enc", "W_dec")}


def cuts(content):
    """The file up to where it may have been cut: in its magic, its length, its header, its data, its end."""
    n = len(content)
    ends = (n // 4, n // 2, 3 * n // 4, n - 100, n - 23, n - 22, n - 21, n - 4, n - 1)
    places = (0, 1, 3, 4, 7, 8, 9, 30, 50, 100, 300, *ends)
    return {f"cut to {place} of {n}": content[:place] for place in places}


B_ENC = {"shape": [12], "dtype": "F32"}
TWICE = b'}, "b_enc": ' + json.dumps({**B_ENC, "data_offsets": [0, 48]}).encode() + b"}"
OFFSETS = json.loads(safetensors()[8:].split(b"}}")[0] + b"}}")["b_enc"]["data_offsets"]
NAN = np.where(np.arange(12) == 5, np.nan, 1).astype(np.float32)
INF = np.where(np.arange(12) == 5, np.inf, 1).astype(np.float32)
OLD = {"_use_new_zipfile_serialization": False}
STARTS = {"local": b"PK\x03\x04", "central": b"PK\x01\x02"}

NPZ = {
    **cuts(npz()),
    **{f"compressed, {name}": content for name, content in cuts(npz(zipfile.ZIP_DEFLATED)).items()},
    "one array, not an archive": npy(ARRAYS["W_enc"]),
    "text": b"not an archive",
    "archive of nothing": zipped({}),
    "member that is text": npz(W_enc=b"hello, here are no numbers at all"),
    "member that is empty": npz(W_enc=b""),
    "member with half a magic": npz(W_enc=b"\x93NUM"),
    "unknown version": npz(W_enc=npy(ARRAYS["W_enc"])[:6] + b"\x09\x09" + npy(ARRAYS["W_enc"])[8:]),
    "shapes swapped": npz(W_enc=ARRAYS["W_enc"].T, W_dec=ARRAYS["W_dec"].T),
    "header swaps the shape": npz(W_enc=npy(ARRAYS["W_enc"]).replace(b"(8, 12)", b"(12, 8)")),
    "huge shape": npz(W_enc=claiming("(1099511627775, 1)")),
    "shape beyond 64 bits": npz(W_enc=claiming(f"({2**63}, {2**63})")),
    "shape whose size overflows": npz(W_enc=claiming("(549755813888, 549755813888)")),
    "shape of many digits": npz(W_enc=claiming("(" + "9" * 400 + ",)")),
    "negative shape": npz(W_enc=claiming("(-8, -12)")),
    "shape of floats": npz(W_enc=claiming("(8.0, 12.0)")),
    "shape of text": npz(W_enc=claiming("'8x12'")),
    "shape of truth": npz(b_enc=claiming("(True,)")),
    "shape that is a number": npz(W_enc=claiming("96")),
    "header that is a list": npz(W_enc=npy_claiming(b"[1, 2, 3]", bytes(384))),
    "header that is code": npz(W_enc=npy_claiming(f"open('{CANARY}', 'w')".encode(), bytes(384))),
    "header nested deeply": npz(W_enc=npy_claiming(b"(" * 9000 + b")" * 9000)),
    "header longer than the file": npz(W_enc=npy(ARRAYS["W_enc"], (2, 0))[:8] + b"\xff\xff\xff\x7f" + bytes(400)),
    "header without a type": npz(W_enc=npy_claiming(b"{'shape': (8, 12), 'fortran_order': False}", bytes(384))),
    "header of an unknown type": npz(W_enc=claiming("(8, 12)", "<z9")),
    "more data than its shape": npz(W_enc=npy(ARRAYS["W_enc"]) + bytes(40)),
    "less data than its shape": npz(W_enc=npy(ARRAYS["W_enc"])[:-40]),
    "pickled object": npz(W_enc=np.array([Touch()], dtype=object)),
    "pickled object that claims numbers": npz(W_enc=claiming("(8, 12)") + pickle.dumps(Touch())),
    "raw pickle": pickle.dumps(Touch()),
    "integers": npz(W_enc=np.zeros((8, 12), np.int64)),
    "small integers": npz(W_enc=np.zeros((8, 12), np.int8)),
    "truth values": npz(W_enc=np.zeros((8, 12), bool)),
    "complex": npz(W_enc=np.zeros((8, 12), np.complex64)),
    "text array": npz(W_enc=np.full((8, 12), "x")),
    "dates": npz(W_enc=np.zeros((8, 12), "datetime64[s]")),
    "records": npz(W_enc=np.zeros((8, 12), [("a", "f4")])),
    "long doubles": npz(W_enc=np.zeros((8, 12), np.longdouble)),
    "missing": npz(W_dec=None),
    "missing threshold": npz(threshold=None),
    "extra": npz(b_gate=ARRAYS["b_enc"]),
    "NaN": npz(b_enc=NAN),
    "infinity": npz(threshold=INF),
    "scalar bias": npz(b_enc=np.float32(1)),
    "scalar matrix": npz(W_enc=np.float32(1)),
    "three dimensions": npz(W_dec=np.zeros((2, 6, 8), np.float32)),
    "threshold as a column": npz(threshold=ARRAYS["threshold"][:, None]),
    "one feature more in one of them": npz(threshold=np.ones(13, np.float32)),
    "name that goes up": npz(**{f"../../{CANARY}": ARRAYS["b_enc"]}),
    "absolute name": zipped({f"/{name}.npy": npy(array) for name, array in ARRAYS.items()}),
    "bomb": lambda: npz(zipfile.ZIP_DEFLATED, **zeros()),
    "members that overlap": overlapping(npy(np.zeros((20, 20), np.float32)), *ARRAYS),
    "many members": lambda: zipped({f"{number}.npy": b"" for number in range(10_001)}),
    "wrong checksum": npz(W_enc=ARRAYS["W_enc"]).replace(ARRAYS["W_enc"].tobytes()[:9], bytes(9)),
    "encrypted": patched(patched(npz(), STARTS["central"], 8, b"\x01"), STARTS["local"], 6, b"\x01"),
    "unknown compression": patched(patched(npz(), STARTS["central"], 10, b"\x63"), STARTS["local"], 8, b"\x63"),
    "sizes beyond the file": patched(npz(), STARTS["central"], 20, b"\xff\xff\xff\x7f" * 2),
    "compressed sizes of nothing": patched(npz(zipfile.ZIP_DEFLATED), STARTS["central"], 20, bytes(4)),
    "directory that points elsewhere": patched(npz(), STARTS["central"], 42, b"\xff\xff\xff\x7f"),
    "end that points elsewhere": patched(npz(), b"PK\x05\x06", 16, b"\xff\xff\xff\x7f"),
}

SAFETENSORS = {
    **cuts(save(TENSORS)),
    "bytes after the end": safetensors() + b"x",
    "length 0": safetensors(length=0),
    "length 1": safetensors(length=1),
    "length beyond the file": safetensors(length=10**6),
    "length of all there is": safetensors(length=2**64 - 1),
    "length that is negative": safetensors(length=2**63),
    "header one byte short": safetensors(length=int.from_bytes(safetensors()[:8], "little") - 1),
    "header that is a list": safetensors(b"[]"),
    "header that is a number": safetensors(b"12345678"),
    "header that is no text": safetensors(b"\xff\xfe{}"),
    "header nested deeply": safetensors(b'{"W_enc":' * 10_000),
    "header of lists nested deeply": safetensors(b"[" * 100_000),
    "header with a number of many digits": safetensors(b'{"W_enc": ' + b"9" * 5000 + b"}"),
    "header with one key twice": safetensors(safetensors()[8:].split(b"}}")[0] + TWICE),
    "entry that is a list": safetensors(W_enc=[1]),
    "entry without offsets": safetensors(text=json.dumps({"W_enc": {"dtype": "F32", "shape": [8, 12]}}).encode()),
    "metadata that are a number": safetensors(__metadata__=3),
    "huge shape": safetensors(W_enc={"shape": [2**39, 8]}),
    "huge shape with offsets": safetensors(W_enc={"shape": [2**39, 8], "data_offsets": [0, 2**44]}),
    "shape beyond 64 bits": safetensors(W_enc={"shape": [2**63, 2**63]}),
    "shape whose size overflows": safetensors(W_enc={"shape": [2**39, 2**39], "data_offsets": [0, 2**80]}),
    "negative shape": safetensors(W_enc={"shape": [-8, -12]}),
    "shape of floats": safetensors(W_enc={"shape": [8.0, 12.0]}),
    "shape of text": safetensors(W_enc={"shape": "8x"}),
    "shape of lists": safetensors(W_enc={"shape": [[8], [12]]}),
    "shape of truth": safetensors(b_enc={"shape": [True] * 3}),
    "shape that is nothing": safetensors(W_enc={"shape": None}),
    "shapes swapped": safetensors(W_enc={"shape": [12, 8]}, W_dec={"shape": [8, 12]}),
    "offsets beyond the end": safetensors(b_enc={"data_offsets": [10**6, 10**6 + 48]}),
    "negative offsets": safetensors(b_enc={"data_offsets": [-48, 0]}),
    "offsets the wrong way round": safetensors(b_enc={"data_offsets": OFFSETS[::-1]}),
    "offsets of floats": safetensors(b_enc={"data_offsets": [float(each) for each in OFFSETS]}),
    "one offset": safetensors(b_enc={"data_offsets": [0]}),
    "offsets that are nothing": safetensors(b_enc={"data_offsets": None}),
    "tensors that overlap": safetensors(b_enc={"data_offsets": [each + 4 for each in OFFSETS]}),
    "two tensors in one place": safetensors(b_enc={"data_offsets": [0, 48]}),
    "hole before a tensor": safetensors(extra={**B_ENC, "data_offsets": [10**4, 10**4 + 48]}, data=bytes(10**4 + 48)),
    "unknown type": safetensors(b_enc={"dtype": "F31"}),
    "type that is a number": safetensors(b_enc={"dtype": 32}),
    "type that is a list": safetensors(b_enc={"dtype": ["F32"]}),
    "integers": tensors_as_safetensors(b_enc=torch.zeros(12, dtype=torch.int64)),
    "small integers": tensors_as_safetensors(b_enc=torch.zeros(12, dtype=torch.uint8)),
    "truth values": tensors_as_safetensors(b_enc=torch.zeros(12, dtype=torch.bool)),
    "complex": tensors_as_safetensors(b_enc=torch.zeros(12, dtype=torch.complex64)),
    "float8": tensors_as_safetensors(W_enc=torch.zeros(8, 12).to(torch.float8_e4m3fn)),
    "missing": tensors_as_safetensors(b_dec=None),
    "extra": tensors_as_safetensors(b_gate=torch.zeros(12)),
    "nothing in it": safetensors(b"{}", data=b""),
    "NaN": tensors_as_safetensors(b_enc=torch.from_numpy(NAN)),
    "infinity": tensors_as_safetensors(b_enc=torch.from_numpy(INF)),
    "infinity in float16": tensors_as_safetensors(b_enc=torch.from_numpy(INF).half()),
    "scalar bias": tensors_as_safetensors(b_enc=torch.tensor(1.0)),
    "scalar matrix": tensors_as_safetensors(W_enc=torch.tensor(1.0)),
    "three dimensions": tensors_as_safetensors(W_dec=torch.zeros(2, 6, 8)),
    "one feature more in one of them": tensors_as_safetensors(threshold=torch.ones(13)),
    "a pickle": pickle.dumps(Touch()),
}

TORCH = {
    **cuts(topk()),
    **{f"pickle that calls {name}": pickled(content) for name, content in HOSTILE.items()},
    "raw pickle": pickle.dumps(Touch()),
    "raw pickle of tensors": pickle.dumps({"W_enc": 1}),
    "before version 1.6": torch_file({"W_enc": torch.zeros(3)}, **OLD),
    "before version 1.6, an archive behind it": torch_file({"W_enc": torch.zeros(3)}, **OLD) + topk(),
    "an object's state": torch_file({"encoder.weight": Touch()}),
    "a whole module": torch_file(torch.nn.Linear(8, 12)),
    "a list": torch_file([torch.zeros(3)]),
    "a number": torch_file(3),
    "a tensor": torch_file(torch.zeros(3)),
    "names that are numbers": torch_file({1: torch.zeros(3)}),
    "nothing in it": torch_file({}),
    "dictionaries in it": torch_file({"model": {"encoder.weight": torch.zeros(12, 8)}}),
    "an empty pickle": pickled(b""),
    "a pickle of garbage": pickled(b"\xff\xfe garbage"),
    "a pickle that ends early": pickled(pickle.dumps({"a": 1}, protocol=2)[:-3]),
    "a key nested deeply": pickled(b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."),
    "a pickle in capitals": rewritten(topk(), lambda name, old: (name.replace("data.pkl", "DATA.PKL"), old)),
    "a storage of nothing": pickled(b"\x80\x02}X\x01\0\0\0actorch.storage\nUntypedStorage\nK\x01\x85Rs."),
    "a pickle of an unknown memo": pickled(b"\x80\x02h\x05."),
    "a pickle that claims a huge text": pickled(b"\x80\x02X\xff\xff\xff\x7fabc."),
    "a huge pickle": torch_file({"x" * 2**21: 1}),
    "compressed": rewritten(topk(), lambda *member: member, zipfile.ZIP_DEFLATED),
    "bomb": lambda: rewritten(
        topk(), lambda name, old: (name, bytes(2**26) if name.endswith("data/0") else old), zipfile.ZIP_DEFLATED
    ),
    "values missing": rewritten(topk(), lambda name, old: None if name.endswith("data/0") else (name, old)),
    "pickle missing": rewritten(topk(), lambda name, old: None if name.endswith("data.pkl") else (name, old)),
    "names that go up": rewritten(topk(), lambda name, old: (f"../../{name}", old)),
    "a program in it": rewritten(topk(), lambda name, old: (name.replace("byteorder", "constants.pkl"), old)),
    "sizes beyond the file": patched(topk(), STARTS["central"], 20, b"\xff\xff\xff\x7f" * 2),
    "wide rows of one number": topk(encoder_weight=torch.zeros(1, 1).expand(2**20, 2**19)),
    "one number for all": topk(encoder_weight=torch.zeros(1, 1).expand(12, 8)),
    "one matrix under many names": topk(**dict.fromkeys(map(str, range(200)), torch.zeros(2**18))),
    "rows that overlap": topk(encoder_weight=torch.zeros(100).as_strided((12, 80), (1, 1))),
    "integers": topk(encoder_bias=torch.zeros(12, dtype=torch.int64)),
    "truth values": topk(encoder_bias=torch.zeros(12, dtype=torch.bool)),
    "complex": topk(encoder_bias=torch.zeros(12, dtype=torch.complex64)),
    "float8": topk(encoder_bias=torch.zeros(12).to(torch.float8_e5m2)),
    "a sparse matrix": topk(encoder_weight=torch.eye(12, 8).to_sparse()),
    "text for a matrix": topk(encoder_weight="text"),
    "a number for a bias": topk(b_dec=1.0),
    "missing": topk(b_dec=None),
    "extra": topk(gate_bias=torch.zeros(12)),
    "NaN": topk(encoder_bias=torch.from_numpy(NAN)),
    "infinity": topk(b_dec=torch.full((8,), torch.inf)),
    "scalar bias": topk(b_dec=torch.tensor(1.0)),
    "one feature more in one of them": topk(encoder_bias=torch.zeros(13)),
    "shapes swapped": topk(encoder_weight=torch.zeros(8, 12), decoder_weight=torch.zeros(12, 8)),
}

CONTAINERS = {
    "npz": ("params.npz", npz(), NPZ, None, {}),
    "safetensors": ("sae_weights.safetensors", safetensors(), SAFETENSORS, "cfg.json", {"architecture": "jumprelu"}),
    "torch": ("ae.pt", topk(), TORCH, "config.json", {"trainer": {"dict_class": "AutoEncoderTopK", "k": 3}}),
}

TEXTS = {
    "empty": b"", "half": b'{"architecture": ', "a list": b"[]", "a number": b"3", "null": b"null", "text": b'"text"',
    "no text": b'{"architecture": "\xff\xfe"}', "lists nested deeply": b"[" * 100_000,
    "objects nested deeply": b'{"metadata":' * 100_000, "a number of many digits": b'{"k": ' + b"9" * 5000 + b"}",
    "two objects": b"{}{}", "a comma too many": b'{"k": 3,}', "Python, not JSON": b"{'k': None}",
    "more than any configuration": 2**26 + 1,  # bytes, in a hole of the file
}  # fmt: skip
NOT_A_NUMBER = float("nan")
TYPES = [
    *((saelens, {"architecture": value}) for value in (3, ["topk"], {}, None, "", "jumprelu", "gated")),
    *((saelens, {"activation_fn": value}) for value in (3, ["relu"], None)),
    *((saelens, {"normalize_activations": value}) for value in (3, [], {}, "much", 1.5)),
    *((partial(saelens, kind="topk"), {"k": value}) for value in ([3], {}, "many", -1, 0, 17, 10**9, float("nan"))),
    (partial(saelens, kind="topk", old=True), {"activation_fn_kwargs": [3]}),
    *((sparsify, {"k": value}) for value in ([3], "many", -1, 0, 17, None)),
    *((sparsify, {"d_in": value}) for value in ("8x", [8], {}, -8, 9, 1e300)),
    *((sparsify, {"num_latents": value}) for value in (-16, 17, True)),
    *((sparsify, {"activation": value}) for value in (3, ["topk"], None)),
    (partial(sparsify, multiple=True), {"expansion_factor": -2}),
    *((gemma_scope_2, {"architecture": value}) for value in (3, ["jump_relu"], None)),
    (gemma_scope_2, {"hf_hook_point_out": 7}),
    *((llama_scope, {"jump_relu_threshold": value}) for value in ("0.5", [0.5], NOT_A_NUMBER, float("inf"))),
    *((llama_scope, {"dataset_average_activation_norm": value}) for value in ([1, 2], 3, {"in": 1.0}, {})),
    (llama_scope, {"dataset_average_activation_norm": {"in": NOT_A_NUMBER, "out": 1.0}}),
    *((llama_scope, {"d_model": value}) for value in ("8", [8], None, 0)),
    (llama_scope, {"hook_point_out": 7}),
    (llama_scope, {"act_fn": ["jumprelu"]}),
    *((llama_scope_r1, {"d_model": value}) for value in ("8", None)),
    *((llamascopium, {"sae_type": value}) for value in (3, ["sae"], None)),
    *((llamascopium, {"act_fn": value}) for value in (3, ["relu"], None)),
    *((partial(llamascopium, function="topk"), {"top_k": value}) for value in ([3], "many", -1)),
    *((dictionary_learning, {"dict_class": value}) for value in (3, ["AutoEncoder"], "BatchTopKSAE")),
    *((partial(dictionary_learning, kind="AutoEncoderTopK"), {"k": value}) for value in ([3], "many", -1, 0)),
    *((openai, {"activation": value}) for value in (3, ["ReLU"], None)),
    (qwen_scope, {"repository": "SAE-Res-Qwen3-8B-Base-L0_small"}),
    (qwen_scope, {"repository": "SAE-Res-Qwen3-8B-Base-L0_17"}),
]
LISTS = {
    "empty": "", "a text": "text", "a number": "3", "an empty list": "[]", "an empty mapping": "{}",
    "lists in it": "- [a, b]", "a mapping in it": "- a: b", "numbers": "- 3", "nothing": "- null", "truth": "- true",
    "layers that are text": "one: a", "layers that are fractions": "1.5: a", "layers that are truth": "true: a",
    "a list that holds itself": "&a [*a]", "an unknown name": "- *a", "half": "[[[a", "a tab": "\t- a",
    "two documents": "--- a\n--- b", "a later version": "%YAML 9.9\n---\n- a", "a date that is none": "- 2001-13-45",
    "a long text": "#" * 2**20 + "\n- saes",
    "bytes": "- !!binary x", "a set": "- !!set {a}", "keys that are lists": "? [a]\n: b", "nested deeply": "[" * 2000,
    "a call": f"- !!python/object/apply:os.system ['touch {CANARY}']",
    "a name of Python's": "- !!python/name:os.system",
    "an object of Python's": "- !!python/object/new:os._Environ {}", "a module": "- !!python/module:antigravity",
    "names that multiply": "a0: &a0 [x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 8)}]\n" for level in range(1, 30)),
    "a path up": "- ../saes", "a path up inside": "- saes/../../saes", "only up": "- ..",
    "a pattern up": "- '*/../*'", "a hub's path up": "- hf://organisation/name/../../etc",
    "another list": "- list.yaml",
    "what is not there": "- nothing", "a null byte": '- "a\\0b"', "an option that is none": "- saes?depth=3",
    "no repository": "- hf://name", "an unknown scheme": "- s3://bucket/key",
    "the home folder": "- ~/nothing",
}  # fmt: skip


# The reasons of those that another check would find too, if later.
REASONS = {
    "npz: pickled object": "is a pickled object; it is not opened", "npz: many members": "10001 files in it, more than",
    "npz: members that overlap": "claim more bytes than it has: they overlap",
    "torch: a key nested deeply": "10000 tuples", "torch: a pickle in capitals": "does not have the one data.pkl",
    "torch: a storage of nothing": "which is not a tensor",
    "npz: bomb": "expands 50-fold or more, which weights never do", "torch: compressed": "compressed, or larger than",
    "torch: bomb": "compressed, or larger than",
    "torch: a huge pickle": "2097168 bytes, too many for a dictionary of tensors",
    "torch: one number for all": "more than is stored of it", "torch: one matrix under many names": "its tensors claim",
    "list: another list": "a list may name SAEs, but no other lists",
}  # fmt: skip
# What headers do not tell: numbers in it.
ONLY_READING_TELLS = {
    "npz: NaN",
    "npz: infinity",
    "torch: NaN",
    "torch: infinity",
    *(f"safetensors: {name}" for name in ("NaN", "infinity", "infinity in float16")),
    *(
        f"llama_scope: {changes}"
        for family, changes in TYPES
        if family is llama_scope
        and changes in ({"jump_relu_threshold": NOT_A_NUMBER}, {"jump_relu_threshold": float("inf")})
    ),
}


def write_container(folder, kind, content):
    """A file with these bytes, and the configuration that it needs."""
    file, _, _, named, config = CONTAINERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content() if callable(content) else content)
    if named is not None:
        (folder / named).write_text(json.dumps(config))
    return folder / file


def write_list(folder, content):
    """A list with SAEs beside it, and above it."""
    for name in ("saes", "inside/saes"):
        saelens(folder / name, drawn(16, 8))
    (folder / "inside" / "list.yaml").write_text(content)
    return folder / "inside" / "list.yaml"


def damaged():
    """Name -> what writes it into a folder, and returns the source to load and the file that is to be named."""

    def container(folder, kind, content):
        return (write_container(folder, kind, content),) * 2

    def text(folder, content):
        saelens(folder, drawn(16, 8))
        with (folder / "cfg.json").open("wb") as file:
            file.truncate(content) if isinstance(content, int) else file.write(content)
        return folder, folder / "cfg.json"

    def configured(folder, made, changes):
        made(folder, drawn(16, 8), **changes)
        return folder, folder

    def listed(folder, content):
        return write_list(folder, content), ""  # what is wrong may be a path in it

    for kind, (_, _, contents, *_) in CONTAINERS.items():
        for name, content in contents.items():
            yield f"{kind}: {name}", partial(container, kind=kind, content=content)
    for name, content in TEXTS.items():
        yield f"cfg.json: {name}", partial(text, content=content)
    for made, changes in TYPES:
        family = (made.func if isinstance(made, partial) else made).__name__
        yield f"{family}: {changes}", partial(configured, made=made, changes=changes)
    for name, content in LISTS.items():
        yield f"list: {name}", partial(listed, content=content)


DAMAGED = dict(damaged())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All of them: those that a folder of SAEs may hold in `saes`, lists beside it."""
    root = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        sources = {}
        for number, (name, write) in enumerate(DAMAGED.items()):
            home = root / ("lists" if name.startswith("list: ") else "saes") / str(number)
            home.mkdir(parents=True)
            sources[name] = write(home)
        for kind, (_, good, *_) in CONTAINERS.items():  # also: what reading needs is loaded before memory is measured
            assert sm.load(write_container(root / kind, kind, good)).F == 12
        assert list(sm.load_layers(write_list(root / "list", "- saes"))) == [5]
        yield root, sources


def refused(source):
    """The message of the one error that loading gives, and the memory that it took beside what was free already."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    with pytest.raises(sm.MatchError) as caught:
        (sm.load_layers if source.suffix == ".yaml" else sm.load)(source)
    return str(caught.value), status("VmHWM") - before


def test_there_are_many():
    assert len(DAMAGED) > 250
    assert {*REASONS, *ONLY_READING_TELLS} < {*DAMAGED}
    assert len(ONLY_READING_TELLS) == 9
    assert len(DAMAGED) == sum(len(each[2]) for each in CONTAINERS.values()) + len(TEXTS) + len(TYPES) + len(LISTS)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_sentence_and_little_memory(folder, name, monkeypatch):
    root, sources = folder
    monkeypatch.chdir(root)
    source, named = sources[name]
    message, peak = refused(source)
    assert str(named) in message
    assert "\n" not in message
    assert len(message.replace(str(root), "")) < 800
    assert REASONS.get(name, "") in message
    assert peak < MOST_BYTES
    assert not Path(CANARY).exists()


@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.startswith("list: ")])
def test_headers_alone_refuse_it_too_where_they_tell(folder, name, monkeypatch):
    root, sources = folder
    monkeypatch.chdir(root)
    source, _ = sources[name]
    if name in ONLY_READING_TELLS:
        assert search(source)[0][0].describe().sae.F in (12, 16)
        return
    with pytest.raises(sm.MatchError):
        search(source)[0][0].describe()


def test_info_lists_a_folder_of_damaged_files(folder, capsys, monkeypatch):
    root, _ = folder
    monkeypatch.chdir(root)
    assert main(["info", str(root / "saes")]) == 3
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("\nwarning: ") > 150
    assert not Path(CANARY).exists()


def test_info_of_a_bad_list_is_one_line(folder, capsys, monkeypatch):
    root, sources = folder
    monkeypatch.chdir(root)
    for source, _ in sources.values():
        if source.suffix == ".yaml":
            assert main(["info", str(source)]) == 2
            shown = capsys.readouterr()
            assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert not Path(CANARY).exists()


def flips(content, until, step=1):
    """The bytes with one bit of one byte flipped, for every byte up to some place, or every so many."""
    for at in range(0, until, step):
        yield content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_of_an_archive_is_found_or_changes_nothing(tmp_path, compression):
    """Checksums see to it."""
    good, found = npz(compression), 0
    for content in flips(good, len(good), 5):
        (tmp_path / "params.npz").write_bytes(content)
        try:
            sae = sm.load(tmp_path / "params.npz")
        except sm.MatchError:
            found += 1
            continue
        for name, tensor in sae.tensors().items():
            assert torch.equal(tensor, TENSORS[name])
    assert found > 150


def test_a_flipped_bit_of_a_safetensors_header_is_found(tmp_path):
    good = safetensors()
    for content in flips(good, 8 + int.from_bytes(good[:8], "little")):
        refused(write_container(tmp_path, "safetensors", content))


def test_a_flipped_bit_of_a_torch_file_is_found_or_leaves_an_sae(tmp_path):
    """Torch checks no sums: other numbers, in as many places, are all that it may become."""
    good, found = topk(), 0
    for content in flips(good, len(good), 11):
        try:
            sae = sm.load(write_container(tmp_path, "torch", content))
        except sm.MatchError:
            found += 1
            continue
        assert (sae.F, sae.d, sae.k) == (12, 8, 3)
    assert found > 0


@pytest.mark.parametrize("name", ["os.system", "open", "eval", "getattr"])
def test_the_hostile_pickles_are_hostile(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    getattr(pickle.loads(HOSTILE[name]), "close", int)()
    assert Path(CANARY).exists()


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "params.npz").symlink_to("nothing")
    (tmp_path / "sae_weights.safetensors").symlink_to("sae_weights.safetensors")
    for name in ("params.npz", "sae_weights.safetensors"):
        with pytest.raises(sm.MatchError, match="no such file or folder"):
            sm.load(tmp_path / name)
    assert main(["info", str(tmp_path)]) == 3


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 302065000\n"
WEIGHTS = ("params.npz", "sae_weights.safetensors", "params.safetensors", "ae.pt", "5.pt", "x.pth", "any.safetensors")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pointer_of_git_lfs_is_named_and_not_taken_for_damage(tmp_path, name):
    (tmp_path / "layer_5").mkdir()
    (tmp_path / "layer_5" / name).write_text(POINTER)
    for source in (tmp_path, tmp_path / "layer_5" / name, f"{tmp_path}/layer_{{layer}}"):
        with pytest.raises(sm.MatchError, match=rf"{name}: is not the file but a pointer of Git LFS .*git lfs pull"):
            sm.load(source)


def test_a_pointer_in_place_of_activations_or_a_matching_is_named(tmp_path):
    for name in ("layer_5.npy", "perm.npy", "perm.safetensors"):
        (tmp_path / name).write_text(POINTER)
    named = r"is not the file but a pointer of Git LFS"
    with pytest.raises(sm.MatchError, match=rf"^{tmp_path}/layer_5\.npy: {named}"):
        StoredActivations(tmp_path)
    for name in ("perm.npy", "perm.safetensors"):
        with pytest.raises(sm.MatchError, match=rf"^{tmp_path}/{name}: {named}"):
            read_permutation(tmp_path / name)


def test_a_pointer_in_a_run_folder_is_named(tmp_path):
    model = {layer: made_up(seed=layer) for layer in (1, 2, 3)}
    chain = sm.match_layers(model, tmp_path / "run", fold="none")
    before = (tmp_path / "run" / "pairs" / "1-2.safetensors").read_bytes()
    evaluate(chain, tmp_path / "run" / "evaluation", distance=1)
    for name, use in {
        "pairs/1-2.safetensors": lambda run: (run.path(1, 0), run[1, 2]),
        "pairs/2-3.safetensors": lambda run: run[2, 3],
        "evaluation/mse.csv": lambda run: Contents(run, evaluation=tmp_path / "run" / "evaluation").summary(),
    }.items():
        (tmp_path / "run" / name).write_text(POINTER)
        with pytest.raises(sm.MatchError, match=f"{name}: is not the file but a pointer of Git LFS"):
            use(sm.Chain.load(tmp_path / "run"))
    with pytest.raises(sm.MatchError, match="a pointer of Git LFS"):
        sm.Chain.load(tmp_path / "run").path(1, 0)
    sm.match_layers(model, tmp_path / "run", fold="none")  # answers that are not there are made again
    assert (tmp_path / "run" / "pairs" / "1-2.safetensors").read_bytes() == before
    for name in ("pairs/1-2.json", "run.json"):
        (tmp_path / "run" / name).write_text(POINTER)
        with pytest.raises(sm.MatchError, match=f"{name}: is not the file but a pointer of Git LFS"):
            sm.Chain.load(tmp_path / "run")


@pytest.mark.parametrize(
    "read", [Texts.read, read_grades, lambda path: EndpointJudge("http://127.0.0.1:9", "model", path)]
)
@pytest.mark.parametrize("name", ["given.txt", "given.jsonl", "given.csv"])
def test_a_pointer_in_place_of_what_an_evaluation_reads_is_named(tmp_path, read, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(sm.MatchError, match=f"{name}: is not the file but a pointer of Git LFS"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["cfg.json", "labels.json"])
def test_a_pointer_in_place_of_json_is_named_too(tmp_path, name):
    saelens(tmp_path / "layer_5", drawn(16, 8))
    (tmp_path / "layer_5" / name).write_text(POINTER)
    with pytest.raises(sm.MatchError, match=rf"{name}: is not the file but a pointer of Git LFS"):
        _ = sm.load_layers(tmp_path).handles[5].describe(), sm.load_layers(tmp_path).handles[5].labels


def test_a_folder_whose_name_is_not_utf8_is_what_the_message_blames(tmp_path):
    folder = tmp_path / os.fsdecode(b"o\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    made_up().save(tmp_path / "sae")
    shutil.copytree(tmp_path / "sae", folder / "sae")
    with pytest.raises(sm.MatchError, match="its path is not valid UTF-8"):
        sm.load(str(folder / "sae"))
