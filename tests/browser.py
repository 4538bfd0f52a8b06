"""Pages in the Chromium of this machine. A page that prints, throws or uses the network fails the test."""

import shutil
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="needs Chromium (apt-get install chromium) and playwright",
)
SERIOUS = ("serious", "critical")


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        opened = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def page_at(opened, address, **options):
    """Yield a page that is ready. It may only ask for addresses that begin with its own."""
    context = opened.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = address.split("#")[0].split("?")[0]
    page.on("request", lambda asked: None if asked.url.startswith((own, "blob:", "data:")) else wrong.append(asked.url))
    try:
        page.goto(address)
        page.wait_for_selector("html[data-ready=yes]")
        yield page
        assert wrong == []
    finally:
        context.close()


def until(page, holds):
    """Wait until an expression is true. (`wait_for_function` makes the page evaluate text, which it forbids.)"""
    ends = time.monotonic() + 20
    while not page.evaluate(holds):
        assert time.monotonic() < ends, holds
        page.wait_for_timeout(20)


def rows_of(page, place):
    """Return the text of every cell of a table, row by row."""
    cells = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    return page.eval_on_selector_all(f"{place} tbody tr:not([aria-hidden])", cells)


def findings_of_axe(page):
    """Return the serious findings of the accessibility checker: rule and element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(each["id"], node["html"][:200]) for each in found if each["impact"] in SERIOUS for node in each["nodes"]]
