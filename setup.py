"""Maps the folders of the repository to packages: engine/ -> saematch, kernels/ -> saematch.kernels."""

from setuptools import find_packages, setup

ROOTS = {"saematch": "engine", "saematch.kernels": "kernels"}

setup(
    package_dir=ROOTS,
    packages=[*ROOTS, *(f"{name}.{package}" for name, folder in ROOTS.items() for package in find_packages(folder))],
)
