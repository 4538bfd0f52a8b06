"""The examples of docs/guide.md run in their order, and print the output that the page shows."""

import doctest
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


def test_the_guide_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes a run folder
    said = []
    example = doctest.DocTestParser().get_doctest(GUIDE.read_text(), {}, GUIDE.name, str(GUIDE), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)
