"""Every damaged file that loading must refuse, by name."""

from __future__ import annotations

import json
import pickle
import zipfile
from functools import partial

import numpy as np
import torch
from safetensors.torch import save

from hostile_files import (
    ARRAYS,
    CANARY,
    HOSTILE,
    TENSORS,
    Touch,
    claiming,
    cuts,
    npy,
    npy_claiming,
    npz,
    overlapping,
    patched,
    pickled,
    rewritten,
    safetensors,
    tensors_as_safetensors,
    topk,
    torch_file,
    zeros,
    zipped,
)
from saes import (
    dictionary_learning,
    drawn,
    gemma_scope_2,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)

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
    """Write a file with the given bytes, and the configuration that the file needs."""
    file, _, _, named, config = CONTAINERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content() if callable(content) else content)
    if named is not None:
        (folder / named).write_text(json.dumps(config))
    return folder / file


def write_list(folder, content):
    """Write a list, and SAEs in its folder and in the folder above."""
    for name in ("saes", "inside/saes"):
        saelens(folder / name, drawn(16, 8))
    (folder / "inside" / "list.yaml").write_text(content)
    return folder / "inside" / "list.yaml"


def damaged():
    """Yield the name of each damaged file, and a function that writes the file into a folder.

    The function returns the source to load, and the file that the error must name.
    """

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
