"""A search for wrong claims: problems that are built to break one, and the answers compared with exact arithmetic.

A problem is identified by the name of its kind and a number. Its costs are computed again without rounding, as whole
numbers times a power of two, and solved in Python's integers. A claim that exact arithmetic refutes is a defect,
however small the difference.

    problems.py   what a problem is, and how kinds of problems are registered
    kinds.py      the kinds of problems
    oracle.py     the exact optimum of a problem
    claims.py     all claims about the answers to a problem, checked
    __main__.py   `make adversary`: the search, which prints every refuted claim with the smallest such problem
"""
