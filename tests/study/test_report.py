"""The HTML page: what is in it, and what a real browser makes of it."""

import html
import re
import shutil
import subprocess

import pytest

from bmrpruner import study
from bmrpruner.study import pictures, results
from tests.study.points import point

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    points = [point(a, s) for a in ("snr", "magnitude") for s in (0.0, 0.5, 0.98)]
    settings = {"model": "a_package.with_a_long_name:function", "network": "0123456789abcdef" * 4}
    found = results.Results(settings, points, "0.1.0", complete=True)
    results.save(out, found)
    for name in results.PICTURES:
        pictures.save_figure(out / name, pictures.draw_metrics(points))
    return out


def test_the_page_has_all_numbers_and_nothing_from_elsewhere(directory, tmp_path):
    page = study.write_report(directory, tmp_path / "page.html").read_text()
    assert page.count("<tr>") == 2 + 6 + 3  # two heads, the points, and those with a posterior
    assert "snr, 98 % &lt;&amp;&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_it_is_not_written_over(directory, tmp_path):
    page = study.write_report(directory, tmp_path / "page.html")
    with pytest.raises(FileExistsError, match="--force"):
        study.write_report(directory, page)
    study.write_report(directory, page, force=True)


def test_what_is_missing_is_named(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.json: expected the results"):
        study.write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"points": 3}')
    with pytest.raises(
        ValueError, match=r"results\.json: settings: expected an object, got nothing"
    ):
        study.write_report(tmp_path)
    shutil.copy(directory / "results.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected metrics\.png in it, got none"):
        study.write_report(tmp_path)
    results.save(tmp_path, results.Results({}, [], "0.1.0", complete=False))
    with pytest.raises(
        ValueError, match=r"expected a complete sweep, got a part; go on with `sweep --resume`"
    ):
        study.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# A frame of a phone's width around the page, and its measures in an attribute of the body.
HARNESS = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe id="phone" width="400" height="800" style="border:0" srcdoc="{page}"></iframe>
<script>
  const errors = [];
  phone.onload = () => {{
    const page = phone.contentDocument;
    phone.contentWindow.onerror = (message) => errors.push(message);
    const pictures = [...page.images];
    document.body.dataset.measures = JSON.stringify([
      page.documentElement.scrollWidth,
      phone.contentWindow.innerWidth,
      pictures.length,
      pictures.filter((p) => p.complete && p.naturalWidth > 100 && p.width > 300).length,
      errors.length,
      Math.max(...[...page.querySelectorAll("*")].map((e) => e.getBoundingClientRect().right)),
    ]);
  }};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install)")
def test_a_browser_shows_it_on_a_phone(directory, tmp_path):
    page = study.write_report(directory, tmp_path / "page.html").read_text()
    (tmp_path / "harness.html").write_text(HARNESS.format(page=html.escape(page)))
    finished = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "harness.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in finished.stderr
    measures = re.search(r'data-measures="\[([^]]*)\]"', finished.stdout)
    assert measures, finished.stderr
    width, frame, pictures_there, visible, errors, right = map(float, measures[1].split(","))
    assert frame == 400
    assert max(width, right) <= 400, "the page scrolls sideways"
    assert pictures_there == visible == 4
    assert errors == 0
