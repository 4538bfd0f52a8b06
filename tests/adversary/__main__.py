"""Search for wrong claims, and print each with the smallest problem that shows it.

Also count the optima that were not certified. Run this search by `make adversary`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter

from adversary.problems import KINDS
from adversary.search import findings, smaller


def main() -> int:
    """Search for the given number of minutes; return 1 if a claim is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="the number of the first problem of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--as-found", action="store_true", help="print problems without making them smaller")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    done: Counter[str] = Counter()
    timid: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for number in itertools.count(options.first):
        for name in options.kinds:
            if time.monotonic() > until:
                print(
                    f"{sum(done.values()):,} problems of {len(done)} kinds: {sum(wrong.values())} wrong, "
                    f"{sum(timid.values())} optima not certified"
                )
                print(
                    *(f"  {kind}: {count} of {done[kind]} optima not certified" for kind, count in timid.most_common()),
                    sep="\n",
                )
                return int(bool(wrong))
            result = findings(name, number)
            done[name] += 1
            timid[name] += result.timid
            if result.wrong:
                wrong[name] += 1
                print(f"{name} {number}: {'; '.join(result.wrong)}")
                if wrong[name] <= 2 and not options.as_found:
                    print(f"    {smaller(name, number)}")
                sys.stdout.flush()
    raise AssertionError("counting never ends")


if __name__ == "__main__":
    raise SystemExit(main())
