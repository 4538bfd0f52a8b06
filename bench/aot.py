"""Compile every kernel for every chip without a GPU, and report what the compiler made of it.

    python bench/aot.py            the default tile of every operation, operand and chip
    python bench/aot.py --write    the same report, written to bench/results/aot.md, so that a change shows (make aot)
    python bench/aot.py --json     the same report for programs: the tests assert on it

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
from saematch.kernels.exact_products.kernel import exact_products_kernel
from saematch.kernels.exact_products.launch import BLOCK_E, BLOCK_K
from saematch.kernels.pairs_below.kernel import pairs_below_kernel
from saematch.kernels.pairwise_cost.kernel import pairwise_cost_kernel
from saematch.kernels.tile_minima.kernel import tile_minima_kernel
from saematch.kernels.tiles import CHIPS, STORED, STORED_LISTING, TILES, TileShape

OPERANDS = {
    "pairwise_cost": ("bfloat16", "float32", "ieee"),
    "tile_minima": ("stored",),
    "pairs_below": ("stored",),
    "exact_products": ("float32", "float64"),
}
MATRIX_KERNELS = {"tile_minima": (tile_minima_kernel, STORED), "pairs_below": (pairs_below_kernel, STORED_LISTING)}
POINTERS = {"rows_ptr": "i32", "places_ptr": "i32", "columns_ptr": "i32", "count_ptr": "i64"}  # others are float32
# Divisible by 16: operands are padded, and numbers of features are. The rows that exact products read have odd widths.
ALIGNED = ("K", "stride_i", "stride_j", "stride_om")
MMA = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Variant(NamedTuple):
    """One kernel as it is compiled."""

    operation: str
    operand: str
    chip: str


class Report(NamedTuple):
    """The result of a compilation: registers and spilled bytes per thread, shared memory, and instructions."""

    variant: Variant
    registers: int
    spilled: int
    shared: int
    tensor_core: int
    instructions: int


class Specialised(NamedTuple):
    """A kernel with its compile-time constants, the types of its unusual pointers, and the compiler's options."""

    kernel: Any
    constants: dict[str, Any]
    pointers: dict[str, str]
    options: dict[str, int]


def variants() -> list[Variant]:
    """Return every operation, operand and chip."""
    return [
        Variant(operation, operand, chip)
        for chip in CHIPS
        for operation, operands in OPERANDS.items()
        for operand in operands
    ]


def tile_of(variant: Variant) -> TileShape:
    """Return the default tile of a variant whose programs work on tiles."""
    if variant.operation in MATRIX_KERNELS:
        return MATRIX_KERNELS[variant.operation][1]
    return TILES[variant.chip, variant.operand]


def compile_variant(variant: Variant) -> Report:
    """Compile one kernel and read its resources and instructions."""
    kernel, constants, pointers, options = _specialised(variant)
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*" + pointers.get(name, POINTERS.get(name, "fp32"))
        else:
            signature[name] = "i32"
        aligned = name.endswith("_ptr") or (name in ALIGNED and variant.operation != "exact_products")
        if aligned and name not in constants:
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", int(variant.chip.removeprefix("sm_")), 32)
    return _read(variant, triton.compile(source, target=target, options=options))


def _specialised(variant: Variant) -> Specialised:
    if variant.operation == "exact_products":
        rows = "fp32" if variant.operand == "float32" else "fp64"
        pointers = {"x_ptr": rows, "y_ptr": rows, "a_ptr": "fp64", "b_ptr": "fp64", "out_ptr": "fp64"}
        pointers |= {"rows_ptr": "i64", "columns_ptr": "i64"}
        constants: dict[str, Any] = {"BLOCK_E": BLOCK_E, "BLOCK_K": BLOCK_K}
        return Specialised(exact_products_kernel, constants, pointers, {"enable_fp_fusion": True})
    if variant.operation in MATRIX_KERNELS:
        constants = tile_of(variant).matrix_arguments()
        options = _options_among(constants)
        constants["stride_j"] = 1  # columns lie side by side
        return Specialised(MATRIX_KERNELS[variant.operation][0], constants, {}, options)
    constants = tile_of(variant).arguments()
    options = _options_among(constants)
    constants |= {"PRECISION": "tf32" if variant.operand == "float32" else "ieee", "UPCAST": False}
    operand = "bf16" if variant.operand == "bfloat16" else "fp32"
    return Specialised(pairwise_cost_kernel, constants, {"left_ptr": operand, "right_ptr": operand}, options)


def _options_among(arguments: dict[str, int]) -> dict[str, int]:
    """Take the compiler's options out of the arguments of a launch, and return them."""
    return {name: arguments.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}


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
    """Count the chip's own tensor-core instructions; where there should be none, those of any generation."""
    expected = [MMA[variant.chip]] if variant.operand in ("bfloat16", "float32") else list(MMA.values())
    return sum(ptx.count(f"{name}.") for name in expected)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def compile_all(wanted: list[Variant]) -> list[Report]:
    """Compile all variants, on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_variant, wanted))


def main() -> None:
    header = ("operation", "operand", "chip", "registers", "spilled", "shared", "tensor-core", "instructions")
    rows = [[*report.variant, *map(str, report[1:])] for report in compile_all(variants())]
    if "--json" in sys.argv:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        print(table(header, rows))
    if "--write" in sys.argv:
        lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
        text = "\n".join(f"| {line} |" for line in lines)
        head = f"# The compiler's report on every kernel\n\nTriton {triton.__version__}; written by `make aot`. "
        head += "Registers and spilled bytes per thread, bytes of shared memory per block.\n\n"
        (Path(__file__).parent / "results" / "aot.md").write_text(head + text + "\n")


if __name__ == "__main__":
    main()
