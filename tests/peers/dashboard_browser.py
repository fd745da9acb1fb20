#!/usr/bin/env python3
"""Drives the dashboard in Debian's Chromium, by WebDriver.

    dashboard_browser.py PAGES CONTROL AXE FOLDER

PAGES is the address of the dashboard. A POST to CONTROL/up and CONTROL/down connects and cuts the broker, CONTROL/bind binds a queue to
what is sent, CONTROL/send/N stores N messages. AXE is axe.min.js. Screenshots are written to FOLDER. It fails at the first fault.
"""

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PAGES, CONTROL, AXE, FOLDER = sys.argv[1:]
VIEWS = ["overview", "messages", "dead-letters", "topics", "consumers", "audit", "../channels/channels", "../channels/topics", "../routing/routing"]
TAB, ENTER, SPACE, SHIFT = "\ue004", "\ue007", " ", "\ue008"
# The key under which WebDriver names an element.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def control(path):
    urllib.request.urlopen(urllib.request.Request(f"{CONTROL}/{path}", method="POST")).read()


class Browser:
    """A session of Chromium; with javascript off if wanted."""

    def __init__(self, driver, javascript=True):
        self.driver = driver
        preferences = {} if javascript else {"profile.managed_default_content_settings.javascript": 2}
        options = {
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--hide-scrollbars"],
            "binary": "/usr/bin/chromium",
            "prefs": preferences,
        }
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.path = ""
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.path = f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.driver + self.path + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:2000]}") from None

    def cdp(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page):
        self.call("POST", "/url", {"url": page if "://" in page else f"{PAGES}/{page}"})

    def url(self):
        return self.call("GET", "/url")

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def link(self, text):
        return self.call("POST", "/element", {"using": "link text", "value": text})[ELEMENT]

    def button(self, start):
        found = self.call("POST", "/element", {"using": "xpath", "value": f"//button[starts-with(normalize-space(.), '{start}')]"})
        return found[ELEMENT]

    def click(self, element):
        self.call("POST", f"/element/{element}/click", {})

    def type(self, css, text):
        element = self.find(css)
        self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def keys(self, text):
        keys = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def press(self, *held):
        downs = [{"type": "keyDown", "value": key} for key in held]
        keys = downs + [{"type": "keyUp", "value": key} for key in reversed(held)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def focused(self):
        return self.script("const e = document.activeElement; return [e.tagName, e.value || '', e.textContent || '']")

    def text(self):
        return self.script("return document.body.innerText")

    def script(self, text, *arguments):
        return self.call("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def shoot(self, name):
        image = base64.b64decode(self.call("GET", "/screenshot"))
        Path(FOLDER, f"dashboard-{name}.png").write_bytes(image)

    def resize(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def faults(self):
        """What the browser reports: violations of the policy, faults of scripts."""
        return [entry for entry in self.call("POST", "/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]

    def check_quiet(self):
        entries = self.faults()
        assert not entries, entries

    def check_accessible(self, name):
        """axe-core finds nothing serious."""
        if not self.script("return !!window.axe"):
            self.script(Path(AXE).read_text() + "\nwindow.axe = axe;")
        found = self.call("POST", "/execute/async", {"script": "const done = arguments[0]; axe.run().then(r => done(r.violations), e => done(String(e)))", "args": []})
        assert isinstance(found, list), found
        serious = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, (name, serious)

    def until(self, what, seconds=30):
        begun, text = time.monotonic(), ""
        while time.monotonic() - begun < seconds:
            text = self.text()
            if what in text:
                return
            time.sleep(0.1)
        raise AssertionError(f"{what!r} never came: {text}")

    def until_script(self, text, *arguments, seconds=30):
        begun = time.monotonic()
        while not self.script(text, *arguments):
            assert time.monotonic() - begun < seconds, text
            time.sleep(0.1)

    def quit(self):
        self.call("DELETE", "")


def down_and_up(browser):
    browser.open("overview")
    browser.until("The broker is down")
    assert "3\npending" in browser.text(), browser.text()
    browser.shoot("down")
    control("up")
    # Nobody loads the page again.
    browser.until("The broker is up")
    browser.until("3\ndead letters")


def find_the_cause(browser):
    browser.click(browser.link("Dead letters"))
    browser.until("no queue")
    browser.shoot("dead-letters")
    browser.click(browser.find("td[data-label=Number] a"))
    browser.until("3 messages match")
    browser.shoot("messages")
    browser.click(browser.find("td.id a"))
    browser.until("Failed attempts")
    browser.shoot("message")
    browser.open("messages")
    browser.type("input[name=topic]", "nothing.*")
    browser.click(browser.button("Filter"))
    browser.until("No message matches")
    assert "topic=nothing" in browser.url(), browser.url()


def drop_and_undo(browser):
    browser.open("messages?state=dead")
    browser.click(browser.button("Drop all 3"))
    browser.until("Drop 3 messages?")
    browser.click(browser.button("Drop 3 messages"))
    browser.until("3 messages will be dropped")
    assert "/done?" in browser.url(), browser.url()
    # A reload sends no form, and every page has the button.
    browser.call("POST", "/refresh", {})
    browser.until("3 messages will be dropped")
    browser.check_accessible("drop")
    left = browser.script("return document.querySelector('[data-left]').textContent")
    browser.until_script("return document.querySelector('[data-left]').textContent !== arguments[0]", left)
    browser.open("topics")
    browser.until("3 messages will be dropped")
    browser.call("POST", "/back", {})
    browser.shoot("undo")
    browser.click(browser.button("Undo"))
    browser.until("Kept 3 messages")
    browser.call("POST", "/refresh", {})
    browser.until("Kept 3 messages")


def wrong_fields(browser):
    """A wrong field is marked, and the others keep their values."""
    browser.open("messages?key=kept&older_than=abc")
    browser.until("such as 90s, 30m or 1d")
    browser.check_accessible("wrong filter")
    browser.shoot("wrong")
    browser.faults()  # the status 400
    browser.type("input[name=older_than]", "1d")
    browser.click(browser.button("Filter"))
    browser.until("No message matches")
    assert "key=kept" in browser.url(), browser.url()


def letters_of_the_broker(browser):
    """The broker's own dead letters: look, requeue one, drop the others."""
    browser.open("../channels/dead-letters")
    browser.until("In the broker")
    browser.click(browser.find("td[data-label=Number] a[href^=broker]"))
    browser.until("3 dead letters in")
    browser.check_accessible("broker")
    browser.shoot("broker")
    browser.click(browser.find("td.id a"))
    browser.until("no such order")
    browser.check_accessible("broker message")
    browser.call("POST", "/back", {})
    browser.click(browser.find("input[name=id]"))
    browser.click(browser.button("Requeue selected"))
    browser.until("Requeue 1 message?")
    browser.check_accessible("broker requeue")
    browser.click(browser.button("Requeue 1 message"))
    browser.until("Requeued 1 message.")
    browser.call("POST", "/refresh", {})
    browser.until("Requeued 1 message.")
    browser.check_accessible("broker requeued")
    # It is refused again.
    for _ in range(100):
        browser.click(browser.link("The queue"))
        browser.until("in order.created")
        if "3 dead letters in" in browser.text():
            break
        browser.call("POST", "/back", {})
        time.sleep(0.1)
    browser.click(browser.button("Drop all 3"))
    browser.until("Drop 3 messages?")
    browser.click(browser.button("Drop 3 messages"))
    browser.until("Dropped 3 messages.")
    browser.check_quiet()


def by_keyboard(browser):
    """Selects a message and comes to the question with keys alone."""
    browser.open("messages?state=dead")
    browser.press(TAB)
    assert "Skip to content" in browser.focused()[2], browser.focused()
    browser.press(ENTER)
    ticked = False
    for _ in range(60):
        browser.press(TAB)
        tag, value, text = browser.focused()
        if tag == "INPUT" and value.isdigit() and not ticked:
            browser.press(SPACE)
            ticked = True
            break
    assert ticked, "no checkbox can be reached"
    for _ in range(20):
        browser.press(SHIFT, TAB)
        if browser.focused()[:2] == ["BUTTON", "requeue"]:
            break
    browser.press(ENTER)
    browser.until("Requeue 1 message?")


def requeue_all(browser):
    control("bind")
    browser.open("dead-letters")
    browser.click(browser.button("Requeue all"))
    browser.until("Requeue 3 messages?")
    browser.shoot("requeue")
    browser.click(browser.button("Requeue 3 messages"))
    browser.until("Requeued 3 messages")
    browser.click(browser.link("Overview"))
    browser.until("\n0\npending")
    browser.until("\n0\ndead letters")
    browser.open("audit")
    browser.until("undo drop")
    browser.shoot("audit")


def pages_of_a_message(browser):
    """The addresses of the pages about a message, and of those that ask."""
    browser.open("messages?state=dead")
    address = browser.script("return document.querySelector('td.id a').href")
    position = address.rsplit("=", 1)[1]
    queue = browser.script("return fetch('dead-letters').then(r => r.text()).then(t => (t.match(/broker\\?queue=[^\"]*/) || [''])[0])")
    asks = [f"confirm?act={act}&position={position}" for act in ("requeue", "drop")]
    bodies = [f"message?position={position}&view={view}" for view in ("json", "text", "hex")]
    return [*bodies, f"edit?position={position}", *asks, "confirm?act=drop-all&state=dead", "done?did=requeued&messages=3&left=2", "done?did=kept&messages=1", *([queue] if queue else []), "nothing"]


def every_view(browser, name):
    for view in VIEWS + pages_of_a_message(browser):
        browser.open(view)
        browser.check_accessible(f"{view} {name}")
        width, seen = browser.script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= seen, (view, name, width, seen)
        entries = browser.faults()
        # The address that leads nowhere is a fault of its own.
        assert view == "nothing" or not entries, (view, entries)


def new_views(browser):
    """Topics lead to messages; channels and routing by keys alone; the names of others do nothing."""
    browser.open("topics")
    browser.until("no queue")
    browser.shoot("topics")
    browser.click(browser.find("td[data-label=Dead] a"))
    browser.until("3 messages match")
    browser.call("POST", "/back", {})
    browser.until("Sent a second")
    browser.open("../channels/channels")
    browser.until("floor1.temperature")
    for _ in range(30):
        browser.press(TAB)
        if browser.focused()[0] == "INPUT":
            break
    browser.keys("floor1")
    browser.press(ENTER)
    browser.until("Clear")
    assert "search=floor1" in browser.url() and "onerror" not in browser.text(), browser.url()
    browser.open("../routing/routing")
    browser.until("in queues")


def back_through_pages(browser):
    """The button of the browser leads back to the page before."""
    browser.open("messages")
    control("send/60")
    browser.open("messages")
    browser.click(browser.link("Next page"))
    browser.until("this is a later page")
    browser.call("POST", "/back", {})
    browser.until("Next page")
    assert "this is a later page" not in browser.text()


def paused(browser):
    browser.open("overview")
    browser.until("Pause updates")
    browser.click(browser.find("#pause"))
    browser.until("Resume updates")
    control("down")
    control("send/1")
    time.sleep(4)  # longer than two events
    assert "\n0\npending" in browser.text(), browser.text()
    browser.click(browser.find("#pause"))
    browser.until("1\npending")
    control("up")
    browser.until("\n0\npending")


def updates_keep_the_place(browser):
    """An update changes what has changed alone: focus, ticks and what is opened stay."""
    ticks = "return [...document.querySelectorAll('td input[name=position]')].map(box => box.checked)"
    control("down")
    control("send/3")
    browser.open("messages?state=pending")
    browser.until("3 messages match")
    browser.check_accessible("live list")
    focused = browser.script("const boxes = document.querySelectorAll('td input'); boxes[1].click(); boxes[2].focus(); return boxes[2].value")
    control("send/2")
    browser.until("5 messages match")
    assert browser.script(ticks) == [False, True, False, False, False], browser.script(ticks)
    assert browser.focused()[1] == focused, browser.focused()
    # The box above them ticks all, also those that came later.
    browser.click(browser.find("#all"))
    assert browser.script(ticks) == [True] * 5, browser.script(ticks)
    control("send/1")
    browser.until("6 messages match")
    assert browser.script(ticks) == [True] * 5 + [False], browser.script(ticks)
    assert browser.focused()[0] == "INPUT" and not browser.script("return document.getElementById('all').checked")
    # The row with the focus goes: the one beside it has the focus then.
    without = """const [at, from, to] = arguments; const body = document.querySelector('tbody'); const next = body.cloneNode(true);
        const boxes = [...body.querySelectorAll('input')]; boxes[at].focus();
        [...next.children].slice(from, to).forEach((row) => row.remove()); keepFocus(() => change(body, next));
        return boxes.indexOf(document.activeElement)"""
    browser.click(browser.find("#pause"))
    assert browser.script(without, 2, 2, 3) == 3
    assert browser.script(without, 4, 4, 5) == 3
    browser.click(browser.find("#pause"))
    browser.until("6 messages match")
    # All go, and the table with them: the focus is at the content, not at the start of the page.
    browser.script("document.querySelector('td input').focus()")
    control("up")
    browser.until("0 messages match")
    assert browser.focused()[0] == "MAIN", browser.focused()
    control("down")
    browser.open("overview")
    browser.click(browser.find("summary"))
    control("send/1")
    browser.until("1\npending")
    assert browser.script("return document.querySelector('details').open") and browser.focused()[0] == "SUMMARY", browser.focused()
    # Somebody else asks for a drop: the audit and every page tell it.
    browser.open("audit")
    rows = browser.script("return document.querySelectorAll('tbody tr').length")
    browser.script("return fetch('act', {method: 'POST', body: new URLSearchParams({act: 'drop', position: '999999'})}).then((r) => r.status)")
    browser.until("1 message will be dropped")
    browser.until_script("return document.querySelectorAll('tbody tr').length === arguments[0] + 1", rows)
    browser.check_accessible("live audit")
    browser.click(browser.button("Undo"))
    browser.until("Kept 1 message")
    control("up")
    browser.open("overview")
    browser.until("\n0\npending")


def without_script(driver):
    browser = Browser(driver, javascript=False)
    control("down")
    control("send/2")
    try:
        browser.open("overview")
        browser.until("2\npending")
        assert "Pause updates" not in browser.text()
        for page in ("topics", "../channels/channels", "../routing/routing"):
            browser.open(page)
            browser.until("ounted since" if "routing" in page else "since")
        browser.open("audit")
        browser.until("undo drop")
        browser.open("overview")
        browser.click(browser.link("Messages"))
        browser.click(browser.find("input[name=position]"))
        browser.click(browser.button("Drop selected"))
        browser.until("Drop 1 message?")
        browser.click(browser.button("Drop 1 message"))
        browser.until("1 message will be dropped")
        browser.click(browser.button("Undo"))
        browser.until("Kept 1 message")
    finally:
        browser.quit()


def main():
    process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    browser = None
    try:
        port = next(line for line in process.stdout if "successfully on port" in line).rsplit("port ", 1)[1].strip().rstrip(".")
        driver = f"http://127.0.0.1:{port}"
        browser = Browser(driver)
        down_and_up(browser)
        find_the_cause(browser)
        drop_and_undo(browser)
        wrong_fields(browser)
        by_keyboard(browser)
        new_views(browser)
        every_view(browser, "light")
        browser.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        every_view(browser, "dark")
        browser.open("messages")
        browser.shoot("dark")
        browser.resize(360, 740)
        every_view(browser, "phone")
        browser.open("messages")
        browser.shoot("phone")
        browser.cdp("Emulation.setEmulatedMedia", features=[])
        browser.resize(1200, 900)
        letters_of_the_broker(browser)
        requeue_all(browser)
        paused(browser)
        updates_keep_the_place(browser)
        control("down")
        back_through_pages(browser)
        control("up")
        browser.open("overview")
        browser.until("\n0\npending")
        browser.check_quiet()
        without_script(driver)
    finally:
        if browser:
            browser.quit()
        process.terminate()
        process.wait()
    print(json.dumps("done"))


main()
