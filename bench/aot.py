"""Compile every kernel for every chip without a GPU, and report what the compiler made of it.

python bench/aot.py            the default tile of every operation, operand and chip
python bench/aot.py --write    the same report, written to bench/results/aot.md, so that a change shows (make aot)
python bench/aot.py --json     the same report for programs: the tests assert on it
"""

from __future__ import annotations

import inspect
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
from saematch.kernels.int8_products.kernel import int8_products_kernel
from saematch.kernels.pairs_below.kernel import pairs_below_kernel
from saematch.kernels.pairwise_cost.kernel import pairwise_cost_kernel
from saematch.kernels.tile_minima.kernel import tile_minima_kernel
from saematch.kernels.tiles import CHIPS, LISTING, READING, TILES, TileShape

KERNELS = {
    "int8_products": (int8_products_kernel, ("int8",)),
    "pairwise_cost": (pairwise_cost_kernel, ("float32",)),
    "tile_minima": (tile_minima_kernel, ("float32",)),
    "pairs_below": (pairs_below_kernel, ("float32",)),
    "exact_products": (exact_products_kernel, ("float32", "float64")),
}
BLOCK_TILES = {"tile_minima": READING, "pairs_below": LISTING}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")  # of the compiler
FLOATS = {"float32": "*fp32", "float64": "*fp64"}
MULTIPLY = {"sm_80": "IMMA", "sm_90": "IGMMA", "sm_100": "UTCIMMA"}  # integer products of tensor cores
SHARED = {"sm_80": 164, "sm_90": 228, "sm_100": 228}  # KiB of a multiprocessor; each block takes one more
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Variant(NamedTuple):
    """One kernel as it is compiled."""

    operation: str
    operand: str
    chip: str


class Report(NamedTuple):
    """What the compiler made of a kernel.

    Attributes:
        variant: what was compiled.
        registers: of a thread.
        spilled: bytes of a thread that do not fit into its registers.
        shared: bytes of shared memory of a block.
        blocks: how many blocks fit on a multiprocessor.
        instructions: of the whole kernel.
        wide: loads and stores of 16 bytes.
        loop: instructions of the main loop.
        products: instructions of the main loop that multiply.
        copies: instructions of the main loop that copy 16 bytes to shared memory while others multiply.
        fused: float32 multiplications outside of the main loop that are fused with an addition.
        conflicts: whether lanes that read operands from shared memory have bank conflicts, for float32 products.
    """

    variant: Variant
    registers: int
    spilled: int
    shared: int
    blocks: int
    instructions: int
    wide: int
    loop: int
    products: int
    copies: int
    fused: int
    conflicts: str


def variants() -> list[Variant]:
    """Return every operation, operand and chip."""
    return [
        Variant(operation, operand, chip)
        for chip in CHIPS
        for operation, (_, operands) in KERNELS.items()
        for operand in operands
    ]


def tile_of(variant: Variant) -> TileShape:
    """Return the default tile of a variant whose programs work on tiles."""
    return BLOCK_TILES.get(variant.operation) or TILES[variant.chip, variant.operand]


def compile_variant(variant: Variant) -> Report:
    """Compile one kernel as a run does, and read its resources and instructions."""
    kernel = KERNELS[variant.operation][0]
    constants = constants_of(variant)
    options = {name: constants.pop(name) for name in OPTIONS if name in constants}
    signature, attributes = {}, {}
    for place, parameter in enumerate(kernel.params):
        name = parameter.name
        signature[name] = "constexpr" if name in constants else _type(variant, name)
        # Launches give aligned pointers and strides; the rows that exact products read have odd widths.
        is_aligned = name.endswith("_ptr") or variant.operation != "exact_products"
        if is_aligned and name not in constants and not parameter.do_not_specialize:
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", int(variant.chip.removeprefix("sm_")), 32)
    return _read(variant, triton.compile(source, target=target, options=options))


def constants_of(variant: Variant) -> dict[str, Any]:
    """Return the compile-time constants of a variant, and the options of the compiler."""
    if variant.operation == "exact_products":
        return {"FOLDED": True, "BLOCK_E": BLOCK_E, "BLOCK_K": BLOCK_K, "enable_fp_fusion": False}
    if variant.operation in BLOCK_TILES:
        return tile_of(variant).block_arguments()
    return tile_of(variant).arguments() | {"PADDED": True, "enable_fp_fusion": variant.operand != "int8"}


def _type(variant: Variant, name: str) -> str:
    """Return the type of an argument of a kernel."""
    if not name.endswith("_ptr"):
        return "i32"
    if variant.operation == "exact_products":
        if name in ("x_ptr", "y_ptr"):
            return FLOATS[variant.operand]
        others = {"rows": "*i64", "columns": "*i64", "part": "*i64", "multiplied": "*i8"}
        return others.get(name.removesuffix("_ptr").removeprefix("x_").removeprefix("y_"), "*fp64")
    others = {"left_ptr": "*i8", "right_ptr": "*i8", "rows_ptr": "*i32", "columns_ptr": "*i32", "count_ptr": "*i64"}
    return others.get(name, "*fp32")


def _read(variant: Variant, compiled: Any) -> Report:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        assembly = _tool("nvdisasm", "-c", file.name)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    by_registers = 2**16 // (-(-numbers["REG"] // 8) * 8 * 32 * compiled.metadata.num_warps)
    by_shared = SHARED[variant.chip] * 1024 // (compiled.metadata.shared + 1024)
    multiply = MULTIPLY[variant.chip] if variant.operand == "int8" else "FFMA"
    loop = _main_loop(assembly, multiply)
    return Report(
        variant,
        numbers["REG"],
        numbers["STACK"] + numbers["LOCAL"],
        compiled.metadata.shared,
        min(by_registers, by_shared),
        len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", assembly, re.MULTILINE)),
        len(re.findall(r"\b(?:LDG|STG)\.E\S*\.128", assembly)),
        len(loop),
        sum(multiply in instruction for instruction in loop),
        sum("LDGSTS" in instruction and ".128" in instruction for instruction in loop),
        len(re.findall(r"\bFFMA\b", assembly)) - sum("FFMA" in instruction for instruction in loop),
        _conflicts(compiled.asm["ttgir"]) if variant.operation == "pairwise_cost" else "",
    )


def _main_loop(assembly: str, multiply: str) -> list[str]:
    """Return the instructions of the loop that multiplies most."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[list[str]] = [[]]
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            back = re.search(r"\bBRA\b.*?(\.L_x_\d+)", instruction[1])
            if back and back[1] in labels:
                loops.append(instructions[labels[back[1]] :])
    return max(loops, key=lambda loop: sum(multiply in instruction for instruction in loop))


def _conflicts(ttgir: str) -> str:
    """Return "none" if consecutive lanes read consecutive columns of the right operand, and the same row of the left.

    Tensor cores have loads of their own, of which this says nothing.
    """
    layouts = dict(re.findall(r"^(#\w+) = #ttg\.\w+<(.*)>$", ttgir, re.MULTILINE))
    dot = re.search(r" tt\.dot .* -> tensor<\w+, (#\w+)>", ttgir)
    loads = re.findall(r"ttg\.local_load .*memdesc<\w+, (#\w+),.*opIdx = (\d)", ttgir)
    assert dot is not None
    orders = {operand: layouts[shared] for shared, operand in loads}
    lanes = "threadsPerWarp = [1, 32]" in layouts[dot[1]] and "order = [1, 0]" in layouts[dot[1]]
    sides = "order = [0, 1]" in orders["0"] and "order = [1, 0]" in orders["1"]
    return "none" if lanes and sides else "some"


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def compile_all(wanted: list[Variant]) -> list[Report]:
    """Compile all variants, on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_variant, wanted))


def main() -> None:
    header = (*Variant._fields, *Report._fields[1:])
    rows = [[*report.variant, *map(str, report[1:])] for report in compile_all(variants())]
    if "--json" in sys.argv:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        print(table(header, rows))
    if "--write" in sys.argv:
        lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
        text = "\n".join(f"| {line} |" for line in lines)
        head = f"# The compiler's report on every kernel\n\nTriton {triton.__version__}; written by `make aot`.\n\n"
        legend = inspect.cleandoc(Report.__doc__ or "").partition("variant: what was compiled.\n")[2]
        head += re.sub(r"^ *(\w+)", r"- `\1`", legend, flags=re.MULTILINE) + "\n\n"
        (Path(__file__).parent / "results" / "aot.md").write_text(head + text + "\n")


if __name__ == "__main__":
    main()
