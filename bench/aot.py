"""Compile every kernel for every chip without a GPU, and report what the compiler made of it.

    python bench/aot.py            the default tile of every operation, operand and chip
    python bench/aot.py --write    the same, written to bench/results/aot.md, so that a change shows (make aot)
    python bench/aot.py --json     for programs: the tests assert on this

Precisions differ in how rows are split, not in the kernel: tf32 and tf32x3 share one, bf16, bf16x3 and bf16x6 another.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saematch.cli.terminal import table
from saematch.kernels.exact_pairs.kernel import exact_pairs_kernel
from saematch.kernels.exact_pairs.launch import BLOCK_E, BLOCK_K
from saematch.kernels.pairs_below.kernel import pairs_below_kernel
from saematch.kernels.pairwise_cost.kernel import pairwise_cost_kernel
from saematch.kernels.reduced_minima.kernel import reduced_minima_kernel
from saematch.kernels.soft_minima.kernel import soft_minima_kernel
from saematch.kernels.tiles import CHIPS, Tile, tile_for

PASSES = {
    kernel.__name__.removesuffix("_kernel"): kernel
    for kernel in (pairwise_cost_kernel, reduced_minima_kernel, pairs_below_kernel, soft_minima_kernel)
}
KINDS = ("bfloat16", "float32", "ieee", "stored")
POINTERS = {
    "rows_ptr": "i32", "row_index_ptr": "i32", "column_index_ptr": "i32", "places_ptr": "i32", "columns_ptr": "i32",
    "count_ptr": "i64", "ends_ptr": "i32",
}  # fmt: skip
MMA = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}  # a block, CUDA C++ guide, table 29
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Variant(NamedTuple):
    """One kernel as it is compiled."""

    operation: str
    kind: str
    chip: str
    tile: Tile | None = None


class Report(NamedTuple):
    """What the compiler made of it: registers a thread, bytes spilled a thread, shared memory, and instructions."""

    variant: Variant
    registers: int
    spilled: int
    shared: int
    tensor_core: int
    instructions: int


def variants() -> list[Variant]:
    """Every operation, operand and chip with its default tile."""
    passes = [Variant(operation, kind, chip) for chip in CHIPS for operation in PASSES for kind in KINDS]
    exact = [f"exact_{what}" for what in ("pairs", "products")]
    return passes + [Variant(one, kind, chip) for chip in CHIPS for one in exact for kind in ("float32", "float64")]


def compile_variant(variant: Variant) -> Report:
    """Compile one kernel and read its resources and instructions."""
    kernel, constants, pointers, options = _specialised(variant)
    signature, attributes = {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*" + pointers.get(name, POINTERS.get(name, "fp32"))
        else:
            signature[name] = "fp32" if name == "sharpness" else "i32"
        if name.endswith("_ptr") or name in ("K", "stride_i", "stride_j", "stride_om", "stride_xm", "stride_yn"):
            attributes[at,] = [["tt.divisibility", 16]]
    if variant.kind == "stored":  # columns lie side by side
        constants["stride_j"], signature["stride_j"] = 1, "constexpr"
        del attributes[kernel.arg_names.index("stride_j"),]
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", int(variant.chip.removeprefix("sm_")), 32)
    return _read(variant, triton.compile(source, target=target, options=options))


def _specialised(variant: Variant) -> tuple[Any, dict[str, Any], dict[str, str], dict[str, int]]:
    """Kernel, constants, types of the pointers that differ from the usual, and compiler options."""
    if variant.operation.startswith("exact"):
        constants = {"BLOCK_E": BLOCK_E, "BLOCK_K": BLOCK_K, "PRODUCT": variant.operation == "exact_products"}
        rows = "fp32" if variant.kind == "float32" else "fp64"
        pointers = {"x_ptr": rows, "y_ptr": rows, "a_ptr": "fp64", "b_ptr": "fp64", "out_ptr": "fp64"}
        return (
            exact_pairs_kernel,
            constants,
            pointers | {"rows_ptr": "i64", "columns_ptr": "i64"},
            {"enable_fp_fusion": True},
        )
    stored = variant.kind == "stored"
    tile = (variant.tile or tile_for(variant.chip, variant.kind, variant.operation == "pairs_below")).arguments()
    options = {name: tile.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    dot = "tf32" if variant.kind == "float32" else "ieee"
    operand = "bf16" if variant.kind == "bfloat16" else "fp32"
    constants = {**tile, "STORED": stored, "PRECISION": dot, "UPCAST": False}
    return PASSES[variant.operation], constants, {"left_ptr": operand, "right_ptr": operand}, options


def _read(variant: Variant, compiled: Any) -> Report:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        assembly = _tool("nvdisasm", "-c", file.name)
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return Report(
        variant,
        int(numbers["REG"]),
        int(numbers["STACK"]) + int(numbers["LOCAL"]),
        compiled.metadata.shared,
        _tensor_core(variant, compiled.asm["ptx"]),
        len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", assembly, re.MULTILINE)),
    )


def _tensor_core(variant: Variant, ptx: str) -> int:
    """The chip's own tensor-core instructions; where there should be none, those of any generation."""
    expected = [MMA[variant.chip]] if variant.kind in ("bfloat16", "float32") else list(MMA.values())
    return sum(ptx.count(f"{name}.") for name in expected)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def compile_all(wanted: list[Variant]) -> list[Report]:
    """All of them, on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_variant, wanted))


def main() -> None:
    header = ("operation", "operand", "chip", "registers", "spilled", "shared", "tensor-core", "instructions")
    rows = [[*report.variant[:3], *map(str, report[1:])] for report in compile_all(variants())]
    if "--json" in sys.argv:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        print(table(header, rows))
    if "--write" in sys.argv:
        lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
        text = "\n".join(f"| {line} |" for line in lines)
        head = f"# What the compiler makes of every kernel\n\nTriton {triton.__version__}; written by `make aot`. "
        head += "Registers and spilled bytes a thread, bytes of shared memory a block.\n\n"
        (Path(__file__).parent / "results" / "aot.md").write_text(head + text + "\n")


if __name__ == "__main__":
    main()
