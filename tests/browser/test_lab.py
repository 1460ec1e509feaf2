"""What a learner sees in JupyterLab: lessons open and run, progress changes, saved notebooks reopen without an error."""

import re
import subprocess
import sys

import pytest
from conftest import PROJECT

LESSONS = sorted(file.name for file in (PROJECT / "notebooks").glob("[0-9]*.ipynb"))
WIDGETS = """
from kit import show
words = [f"word {i}" for i in range(20)]
show.before_after(words, words, words, words)
""", """
import time
def answer(model, tokenizer, messages, text):
    time.sleep(1)
    reply = {"role": "assistant", "content": f"reply to {text!r} after {len(messages)}"}
    return [*messages, {"role": "user", "content": text}, reply]
show.chat_box(None, None, "Be brief.", ["scripted turn"], answer=answer)
"""
TRAIN = """
import json, pathlib, time
from kit import show
place = pathlib.Path("step.json")
def train(total):
    first = json.loads(place.read_text()) if place.exists() else 0
    bar = show.progress("short", total)
    bar.note("loading")
    time.sleep(1)
    try:
        for step in range(first + 1, total + 1):
            time.sleep(0.02)
            bar.update(step, loss=3 / step, validation=4 / step if step % 50 == 0 else None)
    except KeyboardInterrupt:
        bar.note("stopping after this step")
        time.sleep(1)
        place.write_text(json.dumps(step))
        return bar.finish(f"stopped after step {step}; run this again to go on")
    bar.finish(f"trained from step {first + 1} to step {step}")
train(600)
""",


def test_every_lesson_opens(lab):
    lab.start()
    for lesson in LESSONS:
        lab.look(lesson)
        cells = lab.read(lesson).cells
        assert cells[0].source.splitlines()[0].lstrip("# ") in lab.page.locator("h1").first.inner_text()
        images = lab.page.locator(".jp-OutputArea img")
        assert all(images.nth(at).evaluate("image => image.naturalWidth > 0") for at in range(images.count()))
        assert "Error displaying" not in lab.outputs()
    assert len(LESSONS) >= 8


def test_first_lesson_runs_whole(lab):
    lab.open("00_start_here.ipynb")
    lab.run_all(120)
    lab.save()
    outputs = [output for cell in lab.read("00_start_here.ipynb").cells for output in cell.get("outputs", [])]
    assert outputs and [output.evalue for output in outputs if output.output_type == "error"] == []
    lab.screenshot("first_lesson")


@pytest.fixture
def training(lab):
    """Return a lab with a training cell that runs for 13 seconds."""
    lab.write("training.ipynb", *TRAIN)
    (lab.folder / "notebooks" / "step.json").unlink(missing_ok=True)
    lab.open("training.ipynb")
    lab.command("notebook:run-all-cells")
    return lab


def test_progress_changes_stops_and_resumes(training):
    page = training.page
    page.wait_for_selector("text=loading")
    lines = []
    for _ in range(2):
        page.wait_for_function("line => document.body.innerText.match(/step [1-9]\\d*\\/600 · .*left · loss .*/)?.[0] "
                               "?? line !== line", arg=lines[-1] if lines else "")
        lines.append(re.search(r"step \d+/600 · [\d.]+ steps/s · \d:\d\d left · loss [\d.]+", training.outputs())[0])
        page.wait_for_timeout(1500)
    assert lines[0] != lines[1]
    page.wait_for_selector("img[alt^='loss (nats per token) by step']")
    assert page.locator(".jp-CodeCell .jp-InputPrompt").first.inner_text().strip() == "[*]:"
    training.screenshot("training")
    training.command("notebook:interrupt-kernel")
    page.wait_for_selector("text=stopping after this step", timeout=2000)
    page.wait_for_selector("text=stopped after step")
    training.run_all()
    training.save()
    output, = training.read("training.ipynb").cells[0].outputs
    first, last = map(int, re.search(r"trained from step (\d+) to step (\d+)", output.data["text/plain"]).groups())
    assert first > 50 and last == 600 and output.data["text/html"].count("<img") == 1


def test_widgets_work_and_reopen_as_their_twins(lab):
    lab.write("widgets.ipynb", *WIDGETS)
    lab.open("widgets.ipynb")
    lab.run_all()
    page = lab.page
    page.wait_for_selector(".widget-slider, .jupyter-widget-slider")
    page.locator("[role=slider]").press("ArrowRight")
    page.wait_for_function("() => document.body.innerText.includes('word 6')")
    assert "scripted turn" not in lab.outputs()  # the twin hides while the widget lives
    box = page.get_by_label("Your message")
    box.press("Enter")
    box.fill("x" * 40_000)
    box.press("Enter")
    page.wait_for_selector("text=expected at most 2,000 characters, got 40,000")
    box.fill("hello <b>there</b>")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector("text=thinking ...", timeout=2000)
    page.wait_for_selector("text=reply to 'hello <b>there</b>' after 1")
    lab.screenshot("widgets")
    page.get_by_role("button", name="New conversation").click()
    page.wait_for_function("() => !document.body.innerText.includes('hello')")
    lab.save()
    lab.shut_down()
    file = lab.folder / "notebooks" / "widgets.ipynb"
    for trusted in (False, True):
        if trusted:
            subprocess.run([sys.executable, "-m", "jupyter", "trust", str(file)], check=True, env=lab.environment)
        lab.open("widgets.ipynb")
        page.wait_for_selector("text=scripted turn")
        page.wait_for_timeout(3000)  # JupyterLab looks for the widget for two seconds
        text = lab.outputs()
        lab.screenshot(f"reopened_trusted_{trusted}")
        assert "Error displaying" not in text and "Loading widget" not in text and "VBox" not in text
        assert "word 5" in text and "reply to 'scripted turn' after 1" in text


def test_dark_theme(lab):
    lab.write("dark.ipynb", "from kit import show\nshow.curves({'training loss': [(1, 3.0), (9, 1.0)]})")
    lab.theme("Dark")
    lab.open("dark.ipynb")
    lab.run_all()
    assert lab.page.evaluate("document.body.dataset.jpThemeLight") == "false"
    lab.page.wait_for_selector("img[alt^='loss (nats per token)']")
    lab.screenshot("dark")
    lab.theme("Light")
