#!/usr/bin/env python3
"""The page in a real browser, against a running server.

usage: page_test.py --url http://127.0.0.1:7860 [--key KEY] [--shots FOLDER] [--browser PATH]
                    [--steps N] [NAME ...]

Needs the package playwright and a Chromium (PATH; default /usr/bin/chromium); nothing from the
internet. With --key the server wants a login, and the login is tested as well. NAMEs choose tests.
Pictures are drawn: with the demo model each takes seconds. Exit status: 0 all passed, 1 some failed.
"""
import argparse
import base64
import pathlib
import re
import struct
import sys
import traceback
import zlib

from playwright.sync_api import expect, sync_playwright

DRAWN_MS = 120_000  # for one picture on a slow machine
PROMPT = "a red apple on a table"


def png(width, height, texts=()):
    """A small picture of one colour, with tEXt chunks."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x30\x90\x60" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    words = b"".join(chunk(b"tEXt", key.encode() + b"\0" + text.encode("latin-1")) for key, text in texts)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + words + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


class Test:
    """One page in a context of its own, logged in."""

    def __init__(self, options, browser, **context):
        context.setdefault("viewport", {"width": 1440, "height": 900})
        context.setdefault("locale", "en-US")
        self.options = options
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.listen)
        self.page.set_default_timeout(15_000)

    def listen(self, message):
        # A policy that is broken and a script that fails are errors; a refused login is a plain 4xx.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def open(self, log_in=True):
        self.page.goto(self.options.url + "/")
        if log_in and self.options.key:
            self.page.fill("#login-key", self.options.key)
            self.page.press("#login-key", "Enter")
        if log_in:
            expect(self.page.locator("#app")).to_be_visible()
            expect(self.page.locator("#model")).not_to_be_empty()
        return self.page

    def shot(self, name):
        if self.options.shots:
            self.page.screenshot(path=str(self.options.shots / f"{name}.png"))

    def close(self):
        self.context.close()
        assert not self.complaints, self.complaints


def fill(page, prompt, steps, side="256"):
    page.fill("#prompt", prompt)
    page.fill("#steps", str(steps))
    for field in ("#width", "#height"):
        page.fill(field, side)
        page.press(field, "Tab")


def generate(test, prompt=PROMPT, steps=None):
    """Draws a picture and waits for its tile; returns the tile."""
    page = test.page
    fill(page, prompt, steps or test.options.steps)
    with page.expect_response(lambda r: r.url.endswith("/api/v1/jobs") and r.request.method == "POST") as answer:
        page.click("#generate")
    job = answer.value.json()["id"]
    expect(page.locator(f".card.done[data-job='{job}']")).to_be_visible(timeout=DRAWN_MS)
    tile = page.locator(f".tile[data-job='{job}']")
    expect(tile).to_have_count(1)
    return tile


# --- Tests: each gets `start(**context)`, which makes a Test ---


def test_generate(start):
    """Progress and a preview while it is drawn, then the picture on the stage and in the history."""
    test = start()
    page = test.open()
    fill(page, PROMPT, max(40, test.options.steps), "512")
    page.keyboard.press("Control+Enter")
    card = page.locator(".card.running")
    expect(card).to_be_visible(timeout=DRAWN_MS)
    expect(card.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile(r"[1-9]\d*"), timeout=DRAWN_MS)
    expect(card.locator(".cell.is-preview img")).to_be_visible(timeout=DRAWN_MS)
    test.shot("drawing")
    done = page.locator(".card.done .cell:not(:disabled) img")
    expect(done).to_be_visible(timeout=DRAWN_MS)
    expect(done).to_have_attribute("src", re.compile("^/api/v1/images/"))
    assert page.wait_for_function("document.querySelector('.card.done img').naturalWidth === 512")
    expect(page.locator(".tile").first).to_be_visible()
    test.shot("done")
    test.close()


def test_several(start):
    """All pictures that are drawn together are previewed, and progress never goes back."""
    test = start()
    page = test.open()
    fill(page, PROMPT, test.options.steps)
    page.fill("#count", "4")
    page.evaluate(
        """() => {
            window.told = [];
            new MutationObserver(() => {
                const bar = document.querySelector(".card.running .bar");
                window.told.push([Number(bar?.ariaValueNow ?? 0), document.querySelectorAll(".cell.is-preview img").length]);
            }).observe(document.querySelector("#cards"), { subtree: true, childList: true, attributes: true });
        }"""
    )
    page.click("#generate")
    expect(page.locator(".card.done .cell:not(:disabled) img")).to_have_count(4, timeout=DRAWN_MS)
    test.shot("several")
    told = page.evaluate("window.told")
    running = [percent for percent, _ in told if percent > 0]
    assert running == sorted(running), running
    assert max(previews for _, previews in told) >= 2, told
    expect(page.locator(".card.done .card-line")).to_have_text(re.compile(r"Done · \d+ s"))
    test.close()


def test_two_tabs(start):
    """What one tab asks for is seen, finished, starred and deleted in the other; logging out ends both."""
    test = start()
    page = test.open()
    other = test.context.new_page()
    other.goto(test.options.url)
    expect(other.locator("#app")).to_be_visible()
    tile = generate(test, "seen in two tabs")
    twin = other.locator(f".tile[data-image='{tile.get_attribute('data-image')}']")
    expect(twin).to_be_visible(timeout=DRAWN_MS)
    twin.locator(".tile-open").click()
    expect(other.locator(".details-prompt")).to_have_text("seen in two tabs")
    tile.locator(".tile-star").click()
    expect(twin.locator(".tile-star")).to_have_attribute("aria-pressed", "true")
    expect(other.locator(".details-star")).to_have_attribute("aria-pressed", "true")
    other.keyboard.press("Delete")
    other.click("#confirm-yes")
    expect(tile).to_have_count(0)
    if test.options.key:
        other.keyboard.press("Escape")
        other.click("#logout")
        page.click("#generate")
        expect(page.locator("#login")).to_be_visible()
    test.close()


def test_reload(start):
    """The draft stays, and the running job comes back."""
    test = start()
    page = test.open()
    fill(page, "a draft that stays", max(60, test.options.steps), "512")
    page.click("#generate")
    expect(page.locator(".card.running, .card.queued").first).to_be_visible()
    page.wait_for_timeout(400)  # the draft is written when typing pauses
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a draft that stays")
    expect(page.locator(".card.running, .card.queued").first).to_be_visible()
    page.locator(".card.running, .card.queued").first.get_by_role("button", name="Cancel").click()
    expect(page.locator(".card.running, .card.queued")).to_have_count(0)
    test.close()


def test_cancel(start):
    """Several jobs at once; each can be cancelled, waiting or running."""
    test = start()
    page = test.open()
    fill(page, PROMPT, max(60, test.options.steps), "512")
    for count in (1, 2, 3):
        page.click("#generate")
        expect(page.locator(".card.queued, .card.running")).to_have_count(count)
    test.shot("queue")
    for count in (2, 1, 0):
        page.locator(".card.queued, .card.running").last.get_by_role("button", name="Cancel").click()
        expect(page.locator(".card.queued, .card.running")).to_have_count(count)
    test.close()


def test_details_and_reuse(start):
    """A picture's page has what it was made of; its parameters go back into the form."""
    test = start()
    page = test.open()
    tile = generate(test, "two boats on a lake")
    tile.locator(".tile-open").click()
    details = page.locator("#details")
    expect(details.locator(".details-prompt")).to_have_text("two boats on a lake")
    seed = details.locator(".facts div", has_text="Seed").locator("dd").inner_text()
    assert re.fullmatch(r"\d{1,20}", seed), seed
    details.locator("summary").click()
    expect(details.locator("pre")).to_contain_text("two boats on a lake")
    test.shot("details")
    with page.expect_download() as download:
        details.get_by_text("Download").click()
    file = pathlib.Path(download.value.path()).read_bytes()
    assert file.startswith(b"\x89PNG") and b"two boats on a lake" in file
    page.keyboard.press("Escape")
    page.fill("#prompt", "something else")
    tile.locator(".tile-open").click()
    details.get_by_role("button", name="Use these parameters").click()
    expect(page.locator("#prompt")).to_have_value("two boats on a lake")
    expect(page.locator("#seed")).to_have_value(seed)
    expect(page.locator("#seed-fixed")).to_be_checked()
    expect(page.locator("#width")).to_have_value("256")
    test.close()


def test_star_search_delete(start):
    """Stars and words choose from the history; what is deleted is gone after a reload, too."""
    test = start()
    page = test.open()
    tile = generate(test, "zebra under an umbrella")
    image = tile.get_attribute("data-image")
    tile.hover()
    tile.locator(".tile-star").click()
    expect(tile.locator(".tile-star")).to_have_attribute("aria-pressed", "true")
    tile = page.locator(f".tile[data-image='{image}']")
    page.click("#starred")
    expect(tile).to_be_visible()
    page.click("#starred")
    page.fill("#search", "no picture has these words")
    expect(page.locator("#history-empty")).to_be_visible()
    page.fill("#search", "zebra")
    expect(tile).to_be_visible()
    tile.locator(".tile-open").click()
    page.keyboard.press("Delete")
    page.click("#confirm-no")
    expect(page.locator("#details")).to_be_visible()
    page.locator("#details").get_by_role("button", name="Delete").click()
    page.click("#confirm-yes")
    expect(tile).to_have_count(0)
    page.reload()
    expect(page.locator("#app")).to_be_visible()
    expect(page.locator(".tile, #history-empty").first).to_be_visible()
    expect(tile).to_have_count(0)
    test.close()


def test_zip(start):
    """A selection comes as one ZIP file."""
    test = start()
    page = test.open()
    generate(test)
    page.click("#select")
    page.locator(".tile-open").first.click()
    expect(page.locator("#selection-count")).to_have_text("1 picture selected")
    with page.expect_download() as download:
        page.click("#selection-zip")
    assert pathlib.Path(download.value.path()).read_bytes().startswith(b"PK\x03\x04")
    test.shot("selection")
    test.close()


def test_image_to_image(start):
    """A file to start from is sent with its strength; parameters that it carries are offered."""
    test = start()
    page = test.open()
    infotext = "an old map\nNegative prompt: ink\nSteps: 9, Sampler: Euler, CFG scale: 3.5, Seed: 123, Size: 256x272"
    file = {"name": "map.png", "mimeType": "image/png", "buffer": png(256, 272, [("parameters", infotext)])}
    page.set_input_files("#source-file", file)
    expect(page.locator("#source-image")).to_be_visible()
    page.click("#offer-both")
    for field, value in (("prompt", "an old map"), ("negative_prompt", "ink"), ("steps", "9"), ("seed", "123"), ("height", "272")):
        expect(page.locator(f"#{field}")).to_have_value(value)
    page.locator("#strength").fill("0.5")
    test.shot("image_to_image")
    with page.expect_request(lambda r: r.url.endswith("/api/v1/jobs") and r.method == "POST") as request:
        page.click("#generate")
    body = request.value.post_data_json
    assert body["strength"] == 0.5 and body["seed"] == 123, body["strength"]
    assert base64.b64decode(body["init_image"].split(",")[1]) == file["buffer"]
    expect(page.locator(".card.done")).to_be_visible(timeout=DRAWN_MS)
    page.click("#source-clear")
    expect(page.locator("#source-image")).to_be_hidden()
    test.close()


def test_drop(start):
    """A file that is dropped anywhere becomes the picture to start from."""
    test = start()
    page = test.open()
    page.evaluate(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            for (const type of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(png(64, 64)).decode(),
    )
    expect(page.locator("#source-name")).to_contain_text("dropped.png · 64 × 64")
    expect(page.locator("#source-offer")).to_be_hidden()
    test.close()


def test_mistakes(start):
    """What is wrong is said beside the field, and nothing is sent."""
    test = start()
    page = test.open()
    page.fill("#prompt", "")
    page.click("#generate")
    expect(page.locator("#prompt-error")).not_to_be_empty()
    expect(page.locator("#prompt")).to_be_focused()
    page.fill("#prompt", PROMPT)
    page.fill("#steps", "0")
    page.click("#generate")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".card")).to_have_count(0)
    test.close()


def test_hostile_prompt(start):
    """A prompt is text wherever it is shown."""
    test = start()
    page = test.open()
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    tile = generate(test, hostile)
    tile.locator(".tile-open").click()
    expect(page.locator(".details-prompt")).to_have_text(hostile)
    expect(page).to_have_title("sd35")
    test.close()


def test_languages(start):
    """Chinese by the browser's language; switched by hand, and remembered."""
    test = start(locale="zh-CN")
    page = test.open()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("#generate")).to_contain_text("生成")
    test.shot("chinese")
    page.click("#language")
    expect(page.locator("#generate")).to_contain_text("Generate")
    page.reload()
    expect(page.locator("#generate")).to_contain_text("Generate")
    test.close()


def test_themes(start):
    """Dark by the system; switched by hand, and remembered."""
    test = start(color_scheme="dark")
    page = test.open()
    shade = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(shade)
    test.shot("dark")
    page.click("#theme")
    light = page.evaluate(shade)
    assert light != dark
    page.reload()
    assert page.evaluate(shade) == light
    test.shot("light")
    test.close()


def test_keyboard(start):
    """From the prompt to the picture and its page without a pointer."""
    test = start()
    page = test.open()
    fill(page, "drawn by keys", test.options.steps)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    test.shot("help")
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#negative_prompt")).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".card.done")).to_be_visible(timeout=DRAWN_MS)
    first = page.locator(".tile-open").first
    expect(first).to_have_attribute("aria-label", "Open: drawn by keys")
    first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#details")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    expect(first).to_be_focused()
    test.close()


def test_names(start):
    """Everything that can be operated has a name to be read out."""
    test = start()
    page = test.open()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a")]
            .filter((e) => e.checkVisibility())
            .filter((e) => !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim()))
            .map((e) => e.outerHTML)"""
    )
    assert not nameless, nameless
    test.close()


def test_texts(start):
    """Both languages have the same texts, with the same {values} in them."""
    test = start()
    page = test.open()
    wrong = page.evaluate(
        """async () => {
            const { english } = await import("/static/js/text_en.js");
            const { chinese } = await import("/static/js/text_zh.js");
            const values = (text) => [...text.matchAll(/\\{\\w+\\}/g)].map(String).sort().join();
            const keys = new Set([...Object.keys(english), ...Object.keys(chinese)]);
            return [...keys].filter((key) => !key.includes("|"))
                .filter((key) => !english[key] || !chinese[key] || values(english[key]) !== values(chinese[key]));
        }"""
    )
    assert not wrong, wrong
    test.close()


def test_damaged_pictures(start):
    """A PNG that is cut anywhere, or lies about a length, gives no parameters and no exception."""
    test = start()
    page = test.open()
    infotext = "a map\nSteps: 9, Sampler: Euler, CFG scale: 3.5, Seed: 9223372036854775807, Size: 64x64"
    found = page.evaluate(
        """async (text) => {
            const { readInfotext, parseInfotext } = await import("/static/js/infotext.js");
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            for (let size = 0; size < bytes.length - 100; size++)
                await readInfotext(new Blob([bytes.slice(0, size)]));
            for (let at = 8; at < 60; at++) {
                const changed = bytes.slice();
                changed[at] = 0xff;
                await readInfotext(new Blob([changed]));
            }
            return parseInfotext(await readInfotext(new Blob([bytes])));
        }""",
        base64.b64encode(png(16, 16, [("parameters", infotext)]) + bytes(100)).decode(),
    )
    assert found["seed"] == "9223372036854775807" and found["prompt"] == "a map", found
    test.close()


def test_server_away(start):
    """A server that cannot be reached is told of; what happened meanwhile is shown afterwards."""
    test = start()
    page = test.open()
    page.route("**/api/v1/events*", lambda route: route.abort())
    page.route("**/health/ready", lambda route: route.abort())
    page.reload()
    expect(page.locator("#banner")).to_be_visible()
    expect(page.locator("#banner-text")).not_to_be_empty()
    test.shot("away")
    fill(page, "drawn while nobody looked", test.options.steps)
    with page.expect_response(lambda r: r.url.endswith("/api/v1/jobs") and r.request.method == "POST") as answer:
        page.click("#generate")
    job = answer.value.json()["id"]
    page.unroute("**/api/v1/events*")
    page.unroute("**/health/ready")
    expect(page.locator("#banner")).to_be_hidden(timeout=DRAWN_MS)
    expect(page.locator(f".card.done[data-job='{job}']")).to_be_visible(timeout=DRAWN_MS)
    test.close()


def test_phone(start):
    """One column without sideways scrolling; Generate is always in reach."""
    test = start(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = test.open()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#generate")).to_be_in_viewport()
    test.shot("phone")
    tile = generate(test)
    test.shot("phone_done")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#generate")).to_be_in_viewport()
    tile.locator(".tile-open").tap()
    expect(page.locator("#details")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    test.shot("phone_details")
    test.close()


def test_login(start):
    """Nothing is shown without a login; a wrong key is told, and logging out ends it."""
    test = start()
    if not test.options.key:
        test.close()
        return "skipped: the server has no --key"
    page = test.open(log_in=False)
    expect(page.locator("#login")).to_be_visible()
    expect(page.locator("#app")).to_be_hidden()
    test.shot("login")
    page.fill("#login-key", "sd35_wrong")
    page.press("#login-key", "Enter")
    expect(page.locator("#login-error")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator("#login")).to_be_visible()
    page.fill("#login-key", test.options.key)
    page.press("#login-key", "Enter")
    expect(page.locator("#app")).to_be_visible()
    page.reload()
    expect(page.locator("#app")).to_be_visible()
    page.click("#logout")
    expect(page.locator("#login")).to_be_visible()
    page.reload()
    expect(page.locator("#login")).to_be_visible()
    page.goto(f"{test.options.url}/#key={test.options.key}")
    page.reload()
    expect(page.locator("#app")).to_be_visible()
    assert "key" not in page.url, page.url
    test.close()


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--key")
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    options.url = options.url.rstrip("/")
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    return options


def run(options, browser, name, body):
    """True: it passed. A failure leaves a screenshot of its last page."""
    started = []

    def start(**context):
        started.append(Test(options, browser, **context))
        return started[-1]

    try:
        note = body(start)
        print(f"{name}: {note or 'passed'}", flush=True)
        return True
    except Exception:
        print(f"{name}: FAILED", flush=True)
        traceback.print_exc()
        for test in started:
            print("  the page complained:", test.complaints)
            try:
                test.shot(f"failed_{name}")
                test.context.close()
            except Exception:
                pass  # closed already
        return False


def main():
    options = read_options()
    tests = {name[5:]: body for name, body in globals().items() if name.startswith("test_")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        results = [run(options, browser, name, tests[name]) for name in options.names or tests]
        browser.close()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
