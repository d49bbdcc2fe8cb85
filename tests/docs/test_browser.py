"""What a browser makes of the built site: its width, its colours, its search, and what it loads."""

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
from built_site import PAGES, SITE

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("Chromium (Debian: chromium, chromium-driver)", allow_module_level=True)

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
)
# Without changes of colour that take time, and with all formulas drawn.
AT_REST = """
document.head.append(document.createElement("style"));
document.head.lastChild.textContent = "* { transition: none !important; }";
Promise.resolve(window.MathJax?.startup?.promise).then(arguments[0]);
"""
READABLE = 4.5  # the contrast that WCAG 2.1 asks for, criterion 1.4.3
FAINT_TEXT = Path(__file__).with_name("faint_text.js").read_text(encoding="utf-8")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def origin():
    serve = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('user')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.get("about:blank")
    yield driver
    driver.quit()


def show(browser, url, width=1280, scheme="light"):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(url)
    browser.execute_async_script(AT_REST)


def requested(browser):
    """What has been asked for since the last call, without what a page holds itself."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def overflow(browser):
    """By how many pixels the page is wider than the window."""
    page = "document.documentElement"
    return browser.execute_script(f"return {page}.scrollWidth - {page}.clientWidth")


def faint(browser):
    """Texts of too little contrast with what is behind them, and their contrasts."""
    return browser.execute_script(FAINT_TEXT, READABLE)


def undrawn(browser):
    """Formulas that are still text, or have an error in them."""
    return browser.execute_script(
        "const drawn = (e) => e.querySelector('mjx-container') && !e.querySelector('merror');"
        "const found = [...document.querySelectorAll('.math')].filter((e) => !drawn(e));"
        "return found.map((e) => e.textContent);"
    )


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_well(browser, origin, page):
    requested(browser), errors(browser)
    for width, scheme in ((1280, "light"), (400, "dark")):
        show(browser, f"{origin}/{page}", width, scheme)
        assert overflow(browser) <= 0, f"wider than {width} px"
        assert faint(browser) == [], scheme
        assert undrawn(browser) == []
    assert errors(browser) == []
    urls = requested(browser)
    assert urls
    assert [url for url in urls if not url.startswith(origin)] == []


def test_dark_mode_is_dark(browser, origin):
    brightness = {}
    for scheme in ("light", "dark"):
        show(browser, f"{origin}/index.html", scheme=scheme)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = int(colour.partition("(")[2].partition(",")[0])
    assert brightness["light"] > 200 > 60 > brightness["dark"]


@pytest.mark.parametrize("where", ["server", "file"])
def test_search_finds(browser, origin, where):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    start = origin if where == "server" else SITE.as_uri()
    show(browser, f"{start}/reference/index.html")
    browser.find_element(By.CSS_SELECTOR, ".search-button-field").click()
    fields = browser.find_elements(By.CSS_SELECTOR, "input[name=q]")
    field = next(f for f in fields if f.is_displayed())
    field.send_keys("eliminate\n")
    found = WebDriverWait(browser, 20).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "ul.search li a")
    )
    targets = [link.get_attribute("href") for link in found]
    assert any("reference/bmrpruner.evidence.html" in target for target in targets)
    assert errors(browser) == []
    assert [url for url in requested(browser) if not url.startswith((origin, "file:"))] == []


def test_what_is_wrong_is_noticed(browser, origin, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html><body style='background: #fff'><p style='color: #999'>pale</p>"
        "<p>black</p>"
        f"<div style='width: 900px'>.</div><img src='{origin}/gone.png'></body>"
        "<script>throw Error('thrown')</script></html>"
    )
    errors(browser), requested(browser)
    show(browser, page.as_uri(), width=400)
    assert overflow(browser) > 400
    assert [text for text, contrast in faint(browser)] == ["pale"]
    assert "thrown" in " ".join(errors(browser))
    assert f"{origin}/gone.png" in requested(browser)
