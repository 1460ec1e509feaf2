"""What a learner sees in JupyterLab: lessons, live progress, widgets, notebooks opened again."""

import re
import subprocess
import sys

from kit import show

LESSONS = [f"{name}.ipynb" for name in show.LESSONS]
WIDGETS = (
    """
from kit import show
words = [f"word {i}" for i in range(20)]
show.before_after(words, words, words, words)
""",
    """
import time
def answer(model, tokenizer, messages, text):
    time.sleep(1)
    reply = {"role": "assistant", "content": f"reply to {text!r} after {len(messages)}"}
    return [*messages, {"role": "user", "content": text}, reply]
show.chat_box(None, None, "Be brief.", ["scripted turn"], answer=answer)
""",
    """
from kit import memory
memory.planner("SmolLM2-135M", micro_batch_size=1, gpu=80)
""",
)
TRAIN = (
    """
import os
from trl import SFTConfig, SFTTrainer
from kit import settings, sft
os.environ["KIT_MAX_STEPS"] = "60"
def make_trainer(params, run, model, tokenizer, encoded):
    config = SFTConfig(**run.settings(), **sft.hardware(params), max_length=None,
                       dataset_kwargs={"skip_prepare_dataset": True})
    rows = sft.sft_dataset(encoded, params.batch_size, params.seed)
    return SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
""",
    """
def load_few(params, tokenizer, split):
    rows, encoded = sft.load_chats(params, tokenizer, split)
    return rows, encoded[:8]
params = settings.Settings(run="short", batch_size=4)
run = sft.train(params, sft.load_chats, make_trainer, load_validation=load_few, evaluate=None)
""",
)
LINE = r"step (\d+)/60 · [\d.]+ (?:steps/s|s per step) · \d+:\d\d left · loss [\d.]+"


def test_every_lesson_opens(lab):
    lab.start()
    for lesson in LESSONS:
        lab.look(lesson)
        cells = lab.read(lesson).cells
        assert (
            cells[0].source.splitlines()[0].lstrip("# ")
            in lab.page.locator("h1").first.inner_text()
        )
        images = lab.page.locator(".jp-OutputArea img")
        assert all(
            images.nth(at).evaluate("image => image.naturalWidth > 0")
            for at in range(images.count())
        )
        assert "Error displaying" not in lab.outputs()


def test_first_lesson_runs_whole(lab):
    lab.open("00_start_here.ipynb")
    lab.run_all(120)
    lab.save()
    outputs = [
        output
        for cell in lab.read("00_start_here.ipynb").cells
        for output in cell.get("outputs", [])
    ]
    assert outputs and [output.evalue for output in outputs if output.output_type == "error"] == []
    lab.screenshot("first_lesson")


def wait_for_step(lab, least):
    """Wait until the progress line shows a step of at least `least`; return the line."""
    for _ in range(900):
        if (line := re.search(LINE, lab.outputs())) and int(line[1]) >= least:
            return line[0]
        lab.page.wait_for_timeout(100)
    raise AssertionError(f"expected step {least} in 90 seconds, got {lab.outputs()[-500:]}")


def test_training_shows_progress_stops_and_resumes(lab):
    lab.write("training.ipynb", *TRAIN)
    lab.open("training.ipynb")
    page = lab.page
    lab.command("notebook:run-all-cells")
    page.wait_for_selector(".jp-OutputArea >> text=checking", timeout=120_000)
    first = wait_for_step(lab, 2)
    assert wait_for_step(lab, 8) != first
    page.wait_for_selector("img[alt^='loss (nats per token) by step']")
    assert page.locator(".jp-CodeCell .jp-InputPrompt").last.inner_text().strip() == "[*]:"
    lab.screenshot("training")
    lab.command("notebook:interrupt-kernel")
    page.wait_for_selector("text=stopping after this step", timeout=3000)
    page.wait_for_selector("text=/stopped after step \\d+ of 60/")
    lab.screenshot("stopped")
    lab.run_all(120)
    assert re.search(r"resuming from checkpoint-\d+", lab.outputs())
    lab.save()
    lab.screenshot("trained")
    outputs = lab.read("training.ipynb").cells[1].outputs
    text = "".join(output.get("text") or output.data["text/plain"] for output in outputs)
    assert (
        re.search(r"trained 60 steps \(\d+ of them before\) in \d+ s", text) and "left" not in text
    )
    assert sum(output.get("data", {}).get("text/html", "").count("<img") for output in outputs) == 1
    lab.run_all(120)
    assert "short-pocket is finished (60 steps); nothing was trained" in lab.outputs()


def test_widgets_work_and_reopen_as_their_twins(lab):
    lab.write("widgets.ipynb", *WIDGETS)
    lab.open("widgets.ipynb")
    lab.run_all()
    page = lab.page
    page.wait_for_selector(".widget-slider, .jupyter-widget-slider")
    page.locator("[role=slider]").press("ArrowRight")
    page.wait_for_function("() => document.body.innerText.includes('word 6')")
    assert "scripted turn" not in lab.outputs()  # the twin hides while the widget lives
    page.wait_for_selector(".widget-output >> text=/at most 80 GB/")
    page.get_by_label("gpu").fill("24")
    page.get_by_label("gpu").press("Enter")
    page.wait_for_selector(".widget-output >> text=/at most 24 GB/")
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
    lab.execute("time.sleep(3)")
    page.wait_for_selector("text=a cell is running; wait")
    box.fill("while busy")
    box.press("Enter")
    page.wait_for_selector("text=reply to 'while busy' after 1")
    assert "a cell is running" not in lab.outputs()
    lab.save()
    lab.shut_down()
    file = lab.folder / "notebooks" / "widgets.ipynb"
    for trusted in (False, True):
        if trusted:
            subprocess.run(
                [sys.executable, "-m", "jupyter", "trust", str(file)],
                check=True,
                env=lab.environment,
            )
        lab.open("widgets.ipynb")
        page.wait_for_selector("text=scripted turn")
        page.wait_for_timeout(3000)  # JupyterLab looks for the widget for two seconds
        text = lab.outputs()
        lab.screenshot(f"reopened_trusted_{trusted}")
        assert (
            "Error displaying" not in text and "Loading widget" not in text and "VBox" not in text
        )
        assert "word 5" in text and "reply to 'scripted turn' after 1" in text
        assert "at most 80 GB" in text


def test_dark_theme(lab):
    lab.write(
        "dark.ipynb", "from kit import show\nshow.curves({'training loss': [(1, 3.0), (9, 1.0)]})"
    )
    lab.theme("Dark")
    lab.open("dark.ipynb")
    lab.run_all()
    assert lab.page.evaluate("document.body.dataset.jpThemeLight") == "false"
    lab.page.wait_for_selector("img[alt^='loss (nats per token)']")
    lab.screenshot("dark")
    lab.theme("Light")
