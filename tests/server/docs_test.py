#!/usr/bin/env python3
"""/docs in a headless Chromium: it loads under its content policy, asks for a key, shows every operation and sends requests.

Needs playwright and a Chromium. Exit status: 0 when all is well.
"""
import argparse
import json
import pathlib
import re
import urllib.request

from playwright.sync_api import expect, sync_playwright

SMALL = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2}


class Docs:
    def __init__(self, page, arguments):
        self.page, self.arguments, self.shots = page, arguments, arguments.shots
        self.complaints = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def shot(self, name):
        if self.shots:
            self.shots.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=self.shots / f"docs-{name}.png")

    def operation(self, method, path):
        found = self.page.locator("details[data-text]").filter(
            has=self.page.locator(".method", has_text=method.upper())).filter(has=self.page.get_by_text(path, exact=True))
        if found.get_attribute("open") is None:
            found.locator("summary").first.click()
        return found

    def send(self, method, path, fields=None, body=None):
        """The answer's part of the page, once it is there."""
        operation = self.operation(method, path)
        for name, value in (fields or {}).items():
            operation.get_by_label(name, exact=True).fill(value)
        if body is not None:
            operation.get_by_label("Body", exact=True).fill(json.dumps(body))
        operation.get_by_role("button", name="Send").click()
        answer = operation.locator(".answer")
        expect(answer.locator("p").first).to_contain_text(re.compile("^[1-5][0-9][0-9] "), timeout=60000)
        return answer


def check_login(docs):
    docs.page.goto(docs.arguments.url + "/docs")
    if not docs.arguments.key:
        return
    expect(docs.page.locator("#message")).to_contain_text("Enter a key")
    assert all("401" in complaint for complaint in docs.complaints), docs.complaints
    docs.complaints.clear()
    docs.page.get_by_label("Key").fill(docs.arguments.key)
    docs.page.get_by_role("button", name="Use").click()


def check_operations(docs):
    headers = {"Authorization": f"Bearer {docs.arguments.key}"} if docs.arguments.key else {}
    with urllib.request.urlopen(urllib.request.Request(docs.arguments.url + "/openapi.json", headers=headers)) as reply:
        document = json.load(reply)
    count = sum(len(methods) for methods in document["paths"].values())
    expect(docs.page.locator("details[data-text]")).to_have_count(count)
    docs.shot("operations")
    docs.page.get_by_label("Filter operations").fill("jobs post")
    expect(docs.page.locator("details[data-text]:not([hidden])")).to_have_count(
        sum("jobs" in f"{path} {operation['summary']}".lower() and "post" in f"{method} {path} {operation['summary']}".lower()
            for path, methods in document["paths"].items() for method, operation in methods.items()))
    docs.page.get_by_label("Filter operations").fill("")


def check_sending(docs):
    answer = docs.send("post", "/api/v1/jobs", {"wait": "60"}, SMALL)
    expect(answer).to_contain_text("200 OK")
    job = json.loads(answer.locator("pre").inner_text())
    assert job["state"] == "done", job
    docs.operation("post", "/api/v1/jobs").scroll_into_view_if_needed()
    docs.shot("answer")
    picture = docs.send("get", "/api/v1/images/{id}", {"id": job["images"][0]["id"]}).locator("img")
    docs.page.wait_for_function("image => image.naturalWidth === 64", arg=picture.element_handle())
    docs.shot("picture")
    expect(docs.send("get", "/metrics")).to_contain_text("sd35_pictures_total")
    assert not docs.complaints, docs.complaints
    refused = docs.send("post", "/api/v1/jobs", {}, {**SMALL, "width": 65})
    expect(refused).to_contain_text("422")
    expect(refused).to_contain_text('"width"')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--key")
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox"])
        docs = Docs(browser.new_page(viewport={"width": 1200, "height": 900}), arguments)
        for check in (check_login, check_operations, check_sending):
            check(docs)
            print("ok", check.__name__, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
