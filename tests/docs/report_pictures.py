"""The pictures of a report in docs/pictures, taken by a browser.

`python -m tests.docs.report_pictures`, in the root of the project, takes them anew; that needs Chromium, and Pillow
makes them small. The digest of the page's sources stands beside them, so a test sees without a browser whether they
are of the present page.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.captures import records

from packetwire.cli.reporting.collecting import PREVIEW, report_of
from packetwire.cli.reporting.page import page_of

from .pages import ROOT

DIRECTORY = ROOT / "docs" / "pictures"
DIGEST = DIRECTORY / "report.sha256"
REPORTING = ROOT / "lib" / "packetwire" / "cli" / "reporting"
SOURCES = ("charts.py", "page.css", "page.html", "page.js", "sections.py")
"""All that decides how a report looks."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PICTURES = {"report": (1200, 1000), "report-phone": (760, 1120)}
"""Width and height in pixels."""
MOST = 150_000
"""Bytes of a picture, at most."""

TWO_PHONES = """<!doctype html>
<style>body{margin:0;display:flex;gap:40px;background:#888}iframe{width:360px;height:1120px;border:0}</style>
<iframe src="page.html#search=status:cancelled" style="color-scheme:light"></iframe>
<iframe src="page.html#search=status:cancelled" style="color-scheme:dark"></iframe>
"""


def digest() -> str:
    """The digest of the sources of the page."""
    return hashlib.sha256(b"".join((REPORTING / name).read_bytes() for name in SOURCES)).hexdigest()


def browsers() -> Iterator[str]:
    """The browsers that can be used here."""
    yield from filter(None, map(shutil.which, BROWSERS))


def take(browser: str, address: str, picture: Path, size: tuple[int, int]) -> None:
    """Take a picture of a page, in the colours of a palette."""
    from PIL import Image

    raw = picture.with_suffix(".raw.png")
    words = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000")
    window = f"--window-size={size[0]},{size[1]}"
    subprocess.run([browser, *words, window, f"--screenshot={raw}", address], check=True, capture_output=True)
    with Image.open(raw) as taken:
        taken.convert("RGB").quantize(255).save(picture, optimize=True)
    raw.unlink()


def main() -> None:
    """Take all of them."""
    browser = next(browsers(), None)
    if browser is None:
        raise SystemExit("there is no Chromium")
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory, "page.html")
        page.write_text(page_of(report_of(records(3000)), "shop.capture", PREVIEW))
        phones = page.with_name("phones.html")
        phones.write_text(TWO_PHONES)
        wide = page.as_uri() + "#search=-type:1 -channel:1"
        for name, address in (("report", wide), ("report-phone", phones.as_uri())):
            take(browser, address, DIRECTORY / f"{name}.png", PICTURES[name])
    DIGEST.write_text(digest() + "\n")


if __name__ == "__main__":
    main()
