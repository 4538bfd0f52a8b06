"""Bytes of files that are cut, changed, inconsistent or hostile, made from good ones."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from record import status
from safetensors.torch import save

import saematch as sm
from saes import made_up

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
    """An object whose pickle creates the canary file when the pickle is opened."""

    def __reduce__(self):
        return (open, (CANARY, "w"))


def npy(array, version=(1, 0)):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version, allow_pickle=True)
    return buffer.getvalue()


def npy_claiming(text, data=b"", version=1):
    """Return the bytes of an array with the given header."""
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
    """Return the good file with some members replaced by an array or bytes, or removed by None."""
    members = {**ARRAYS, **changes}
    stored = {
        name: value if isinstance(value, bytes) else npy(value) for name, value in members.items() if value is not None
    }
    return zipped({f"{name}.npy": content for name, content in stored.items()}, compression)


def patched(content, mark, offset, value):
    """Return the content with `value` written at an offset from every occurrence of a mark."""
    content, at = bytearray(content), -1
    while (at := content.find(mark, at + 1)) >= 0:
        content[at + offset : at + offset + len(value)] = value
    return bytes(content)


def safetensors(text=None, length=None, data=None, **changes):
    """Return the good file with changed entries of its header (None removes one), or another header, length or data."""
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
    """Return a dictionary as `AutoEncoderTopK` saves it, with some values replaced, or removed by None."""
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
    """Return an archive whose members `change(name, bytes)` has replaced; None removes a member."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [change(name, archive.read(name)) for name in archive.namelist()]
    return zipped(dict(member for member in members if member), compression)


def overlapping(content, *names):
    """Return an archive whose members share their bytes: the header of each skips the headers of the next ones."""
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
    """Return a file of torch with another pickle in it."""
    return rewritten(topk(), lambda name, old: (name, content if name.endswith("data.pkl") else old))


def zeros():
    """Return large arrays that compress to almost nothing."""
    return {name: np.zeros((3000, 3000), np.float32) for name in ("W_enc", "W_dec")}


def cuts(content):
    """Return the file cut in its magic number, its length, its header, its data or its end."""
    n = len(content)
    ends = (n // 4, n // 2, 3 * n // 4, n - 100, n - 23, n - 22, n - 21, n - 4, n - 1)
    places = (0, 1, 3, 4, 7, 8, 9, 30, 50, 100, 300, *ends)
    return {f"cut to {place} of {n}": content[:place] for place in places}


def refused(source):
    """Load a source that must be refused. Return the message, and the memory that loading took."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    with pytest.raises(sm.MatchError) as caught:
        (sm.load_layers if source.suffix == ".yaml" else sm.load)(source)
    return str(caught.value), status("VmHWM") - before


@contextlib.contextmanager
def full_disk():
    """Limit every file to 1000 bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
