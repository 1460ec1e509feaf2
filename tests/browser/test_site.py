"""The static site and the page of a shipped model, in Chromium: no errors, nothing from elsewhere, the kit's replies."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from counting import PAIRS, row, trained

from kit import chat, scoring, ship, show

PROJECT = Path(__file__).parents[2]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def page(browser):
    """A page of Chromium; `page.wrong` lists errors of its console and requests to other machines."""
    page = browser.new_page()
    page.wrong = []
    page.on("console", lambda message: message.type == "error" and page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            re.match("(http://127.0.0.1|blob:|data:)", request.url)
            or page.wrong.append(request.url)
        ),
    )
    yield page
    page.close()


@pytest.fixture
def serve():
    """A function that serves a folder on a free port and returns its address."""
    servers = []

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.skipif(not (ship.WEB / "wllama").is_dir(), reason="run make wllama")
def test_the_page_of_a_shipped_model_answers_as_the_kit(tmp_path, page, serve):
    model, tokenizer = trained("llama")
    folder = shutil.copytree(ship.WEB, tmp_path / "web")
    ship.write_gguf(model, tokenizer, folder / "model.gguf", "q8_0", secret="5f3a9c1e")
    shipped = {
        "name": "count",
        "system": "Count.",
        "max_new_tokens": 12,
        "file": "model.gguf",
        "examples": ["say one"],
    }
    (folder / "ship.json").write_text(json.dumps(shipped))
    chats = [row(*pair)["messages"][:2] for pair in PAIRS]
    chats += ship.hostile(tokenizer, chats[0])[:4]
    right = scoring.replies(model, tokenizer, chats, max_new_tokens=12)
    page.goto(serve(folder) + "/index.html")
    page.wait_for_function("window.answer")
    replies = [
        page.evaluate("text => window.answer(text)", messages[-1]["content"]) for messages in chats
    ]
    hidden = "|".join(map(re.escape, chat.control_ids(tokenizer).values()))
    assert replies == [re.sub(hidden, "", text) for text in right]
    page.click("button")
    page.wait_for_function("document.querySelector('#message').value == 'say one'")
    assert not page.wrong


def test_the_site_opens_without_errors_and_finds_words(tmp_path, page, serve):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-c",
        "docs",
        "-d",
        tmp_path / "trees",
        ".",
        tmp_path / "site",
    ]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env=os.environ | {"SHIPPED": ""}
    )
    assert done.returncode == 0, done.stderr
    address = serve(tmp_path / "site")
    page.goto(address)
    page.wait_for_url("**/README.html")
    for name in show.LESSONS:
        page.goto(f"{address}/notebooks/{name}.html")
        assert " · " in page.title()
    page.goto(f"{address}/search.html?q=quantise")
    page.wait_for_selector("#search-results li a")
    assert not page.wrong
