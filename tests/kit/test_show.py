"""Tables, figures, widgets, verdicts and progress, by numbers; a bug report holds no secret."""

import base64
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from transformers import AutoTokenizer

from kit import show
from kit.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[2]
SCORE = {"rate": 0.5, "low": 0.1, "high": 0.9, "hits": 1, "n": 2}
STAGES = {
    "base": {"test": SCORE},
    "sft": {"test": SCORE | {"rate": 0.8}, "edits": SCORE | {"n": 7}},
}


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(PROJECT / "models/pocket")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<end>"]})
    return tokenizer


@pytest.fixture(scope="module")
def encoded(tokenizer):
    ids = tokenizer("<user>at one 1 * *\n<end>")["input_ids"]
    mask = [0] * (len(ids) - 3) + [1] * 3
    labels = [i if m else -100 for i, m in zip(ids, mask, strict=True)]
    return SimpleNamespace(input_ids=ids, loss_mask=mask, labels=labels)


def pixels(figure):
    """Return the image of a figure as (height, width, red green blue alpha)."""
    source = re.search('src="data:image/png;base64,([^"]+)"', figure.rich)[1]
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(source)))


FIGURES = {
    "curves": lambda: show.curves(
        {"loss": [(1, 3.0), (2, 2.0)], "validation": [(1, 1.0), (2, 1.5)]}, smooth=0.5, log="y"
    ),
    "scoreboard": lambda: show.scoreboard_chart(STAGES),
    "boxes": lambda: show.boxes(
        {"GPU 0": {"weights": 2, "moments": 4}, "GPU 1": {"weights": 2}}, limit=8
    ),
    "roofline": lambda: show.roofline(100.0, 10.0, {"lookup": (1, 5.0), "product": (50, 80.0)}),
    "embedding": lambda: show.embedding_rows(torch.eye(6), {"<new>": 4}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_sharp_transparent_and_described(name):
    figure = FIGURES[name]()
    width = int(re.search('width="(\\d+)"', figure.rich)[1])
    image = pixels(figure)
    assert image.shape[1] == 2 * width >= 1200  # two pixels for each of the screen
    assert (image[..., 3] == 0).mean() > 0.5  # transparent where nothing is drawn
    assert 0.005 < (image[..., 3] > 0).mean() < 0.5
    alt = re.search('alt="([^"]*)"', figure.rich)[1]
    assert len(alt) > 20 and str(figure) in alt.replace("&lt;", "<").replace("&gt;", ">")


def test_fonts_are_at_least_11_pixels_on_the_screen():
    assert (
        show.STYLE["font.size"] / 72 * 100 >= 11
    )  # a picture is as many hundreds of screen pixels wide as inches
    assert all(
        size >= 11
        for size in map(int, re.findall(r"font(?:-size)?:(\d+)px", Path(show.__file__).read_text()))
    )


def test_text_is_readable_on_white_and_on_the_dark_theme():
    def contrast(one, other):
        light, dark = sorted((luminance(one), luminance(other)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert min(contrast(show.GREY, "#ffffff"), contrast(show.GREY, "#111111")) > 4
    assert all(contrast(show.DARK, fill) > 7 for fill in show.FILLS.values())
    assert min(contrast(show.RIM, "#ffffff"), contrast(show.RIM, "#111111")) > 3


def test_table_aligns_escapes_and_names_code():
    shown = show.table(
        ["phrase", "line", "n"], [["<end>", "1 2 * * *", 1], ["a & b", "3", "1,022"]], code=["line"]
    )
    assert shown.text.splitlines() == [
        "phrase  line           n",
        "------------------------",
        "<end>   1 2 * * *      1",
        "a & b   3          1,022",
    ]
    assert "&lt;end&gt;" in shown.rich and "a &amp; b" in shown.rich
    cells = re.findall('<t([hd]) style="text-align:(\\w+);([^"]*)"', shown.rich)
    assert [align for _, align, _ in cells] == ["left", "left", "right"] * 3
    assert [("monospace" in rest) for _, _, rest in cells] == [False] * 3 + [False, True, False] * 2


@pytest.mark.parametrize(
    "number",
    [
        "1",
        "-0.5",
        "12%",
        "50.0% [9.5%, 90.5%]",
        "1.0% to 2.0%",
        "2:03",
        "3 GB",
        "1,234.5",
        "1.3x",
        "2.5e-07",
        "= 191.15",
        "-",
    ],
)
def test_numbers_are_to_the_right_on_one_line(number):
    cell = show.table(["n"], [[number]]).rich.split("<td")[1]
    assert "text-align:right" in cell and "white-space:nowrap" in cell


@pytest.mark.parametrize(
    "text", ["0 8 * * 1-5", "*/5 * * * *", "cannot", "1 of 2", "", "a1", "2026-11-27"]
)
def test_text_is_to_the_left(text):
    assert "text-align:right" not in show.table(["n"], [[text]]).rich


def test_short_cells_stay_on_one_line_and_json_breaks_at_commas():
    order = '{"item":"calzone","size":"large"}'
    line, text = show.table(["line", "order"], [["0 8,9 * * 1-5", order]]).rich.split("<td")[1:]
    assert "white-space:nowrap" in line and "0 8,9 *" in line
    assert "nowrap" not in text and "calzone&quot;,<wbr>&quot;size" in text


def test_scoreboard():
    lines = show.scoreboard(STAGES).text.splitlines()
    assert "test (n=2)" in lines[0] and "edits (n=7)" in lines[0]
    assert lines[2].split() == ["base", "50.0%", "[10.0%,", "90.0%]", "-"]
    assert show.scoreboard_chart(STAGES).text == show.scoreboard(STAGES).text
    stages = {"small": {"test": SCORE}, "large": {"test": SCORE | {"n": 9}}}
    assert "test (n=2, 9)" in show.scoreboard(stages).text


def test_confusion_shades_by_the_share_of_a_row():
    shown = show.confusion({"line": {"line": 4, "other": 1}, "other": {"other": 0}})
    assert re.findall(r"rgba\(0,114,178,([\d.]+)\)", shown.rich) == [
        "0.00",
        "0.56",
        "0.14",
        "0.00",
        "0.00",
        "0.00",
    ]
    assert shown.text.splitlines()[2].split() == ["line", "4", "1"]
    assert shown.rich.count("font-weight:bold") == 2


def test_figures_give_their_numbers_as_text():
    text = {name: FIGURES[name]().text for name in FIGURES}
    assert text["curves"] == "loss (nats per token) by step: loss: 3 -> 2, validation: 1 -> 1.5"
    assert text["boxes"].splitlines()[2].split() == ["GPU", "0", "2.00", "4.00", "6.00"]
    assert (
        "bound: 2.5 -> 100, lookup, 50% of the bound: 5 -> 5, product, 80% of" in text["roofline"]
    )
    mean = torch.eye(6)[[0, 1, 2, 3, 5]].mean(0)
    assert f"{(torch.eye(6)[4] - mean).norm():.2f} from the mean" in text["embedding"]


def test_diagram_names_both_ways_to_the_loss():
    shown = show.diagram("dpo")
    policy, reference = shown.text.splitlines()
    assert "policy (trained) -> policy gap" in policy and "(frozen) -> reference gap" in reference
    assert shown.rich.count("<span") == 6 and "&rarr;" in shown.rich.replace("→", "&rarr;")


def ticks(figure_of, monkeypatch):
    """Return the labels of the two axes that a figure draws."""
    from matplotlib.figure import Figure

    axes, plain = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args: (axes.extend(self.axes), plain(self, *args))
    )
    figure_of()
    return [
        [label.get_text() for label in axis.get_majorticklabels() + axis.get_minorticklabels()]
        for axis in (axes[0].xaxis, axes[0].yaxis)
    ]


def test_axes_have_plain_numbers(monkeypatch):
    wide = {"loss": [(1e-4, 0.001), (1e-2, 9.0)]}
    x, y = ticks(lambda: show.curves(wide, log="xy"), monkeypatch)
    assert {"0.0001", "0.001", "0.01"} <= set(x) and {"0.01", "1"} <= set(y)
    assert not [label for label in x + y if "$" in label]  # no exponents, they are too small
    narrow = {"loss": [(1, 0.6), (18, 6.0)]}
    x, y = ticks(lambda: show.curves(narrow, log="y"), monkeypatch)
    assert {"1", "2", "5"} <= set(y) and all("." not in label for label in x)


def test_eight_parts_have_eight_colours():
    assert len(set(show.PALETTE)) == 8


def test_lens_and_strip_give_each_token(tokenizer, encoded):
    lens = show.token_lens(tokenizer, encoded, [0.25] * len(encoded.input_ids))
    lines = lens.text.splitlines()[2:]
    assert len(lines) == len(encoded.input_ids) == lens.rich.count("font:13px monospace")
    assert sum("in the loss" in line and "0.25" in line for line in lines) == 3
    assert lines[0].split() == ["'<user>'", "control"]
    assert [name in lens.rich.split("font:13px")[0] for name in show.FILLS] == [
        True
    ] * 3  # the legend
    assert "0.25" not in show.token_lens(tokenizer, encoded).text
    messages = [{"role": "user", "content": "at one"}]
    row = show.strip(tokenizer, messages, encoded).text.splitlines()[-1].split()
    assert row[-3:] == [str(encoded.input_ids[-1]), "1", str(encoded.labels[-1])]


def test_embedding_rows_say_how_far_each_new_row_is_from_the_nearest():
    weight = torch.eye(6)
    weight[5] = weight[4] + 0.01
    text = show.embedding_rows(weight, {"<a>": 3, "<b>": 4, "<c>": 5}).text
    distances = dict(re.findall(r"(<.>): .*?, ([0-9.]+) from the nearest", text))
    assert distances == {"<a>": "1.41", "<b>": "0.02", "<c>": "0.02"}


def test_course_map_links_the_lessons():
    shown = show.course_map(2)
    links = re.findall('href="([^"]+)"', shown.rich)
    assert len(links) == 12 and [link[:2] for link in links] == [f"{i:02}" for i in range(12)]
    assert "07 LoRA > " in shown.text and "10 many GPUs" in shown.text
    assert "[02 SFT completion]" in shown.text and shown.rich.count(show.BLUE) == 1


@pytest.mark.parametrize(
    "reply, line",
    [
        (..., "not answered yet"),
        (lambda x: ..., "not answered yet"),
        (lambda x: 2 * x, "correct"),
        (lambda x: x, "not right yet: expected 6, got 3"),
        (
            lambda x: x["a"],
            "not right yet: your answer raised TypeError: 'int' object is not subscriptable",
        ),
    ],
)
def test_answer_speaks_and_never_raises(capsys, reply, line):
    def check(double):
        if double(3) != 6:  # pytest would add lines to an assert
            raise AssertionError(f"expected 6, got {double(3)}")

    show.answer(reply, check)
    assert capsys.readouterr().out == line + "\n"


def test_a_stub_with_a_docstring_is_not_an_answer(capsys):
    def double(x):
        """Return twice x."""

    show.answer(double, None)
    assert capsys.readouterr().out == "not answered yet\n"


def reply_to(messages, text):
    return [
        *messages,
        {"role": "user", "content": text},
        {"role": "assistant", "content": text.upper()},
    ]


def test_chat_twin_is_the_scripted_conversation_and_the_widget_starts_fresh():
    shown = show.chat_box(
        "m",
        "t",
        "Be brief.",
        ["a <b>", "c"],
        answer=lambda m, t, messages, text: reply_to(messages, text),
    )
    assert shown.text.splitlines() == [
        "system: Be brief.",
        "user: a <b>",
        "assistant: A <B>",
        "user: c",
        "assistant: C",
    ]
    assert "a &lt;b&gt;" in shown.rich and "<b>" not in shown.rich
    page = shown.widget().children[0].value
    assert "Be brief." in page and "a &lt;b&gt;" not in page


def test_chat_guards_each_message():
    pages = []

    def reply(messages, text):
        pages.append(chat.page.value)
        if text == "long":
            raise SettingsError("expected at most 9 ids, got 10; shorten it")
        return reply_to(messages, text)

    chat = show.Chat([], reply)
    for text in ("", "   ", "x" * (show.LONGEST + 1)):
        chat.box.value = text
        chat.submit()
    assert pages == [] and "shorten the message" in chat.page.value
    chat.box.value = "hello"
    chat.submit()
    assert "hello" in pages[0] and "thinking" in pages[0] and chat.box.value == ""
    assert "HELLO" in chat.page.value and "thinking" not in chat.page.value
    chat.box.value = "long"
    chat.submit()
    assert "got 10; shorten it" in chat.page.value and len(chat.messages) == 2
    assert chat.box.value == "long"  # to be shortened
    chat.restart()
    assert "HELLO" not in chat.page.value and chat.messages == []


class Contents:
    """Stands in for a Jupyter server and its files."""

    def __init__(self):
        self.contents_manager, self.register_pre_save_hook = (
            self,
            lambda hook: setattr(self, "hook", hook),
        )


def test_a_server_saves_the_twin_of_a_widget_alone():
    server = Contents()
    (place,) = show._jupyter_server_extension_points()
    sys.modules[place["module"]]._load_jupyter_server_extension(server)
    own = {"output_type": "display_data", "metadata": {}, "data": {show.WIDGET: {"model_id": "a"}}}
    twin = own | {"data": {"text/html": "<div class='kit-twin'>"}}
    live = own | {"metadata": {"kit": "has a twin"}}
    stream = {"output_type": "stream", "name": "stdout", "text": "hello"}
    code = {"cell_type": "code", "outputs": [stream, twin, live, own]}
    content = {"cells": [{"cell_type": "markdown", "source": ""}, code]}
    server.hook(model={"type": "notebook", "content": content}, path="a.ipynb", contents_manager=1)
    assert code["outputs"] == [stream, twin, own]  # own: a widget that the learner made
    server.hook(model={"type": "file", "content": "text"}, path="a.txt", contents_manager=1)


def test_make_lab_starts_a_server_that_loads_show():
    lab = re.search(r"^lab:.*\n\t(.*jupyter lab.*)", (PROJECT / "Makefile").read_text(), re.M)[1]
    folder = re.search(r"JUPYTER_CONFIG_PATH='\$\(CURDIR\)/(\S+)'", lab)[1]
    config = json.loads((PROJECT / folder / "jupyter_server_config.d" / "kit.json").read_text())
    assert config["ServerApp"]["jpserver_extensions"] == {"kit.show": True}


def test_before_after_moves_its_rows():
    words = [f"word {i}" for i in range(9)]
    shown = show.before_after(words, words, words, words)
    slider, page = shown.widget().children
    assert slider.max == 3 and "word 6" not in page.value
    slider.value = 3
    assert "word 8" in page.value and "word 2" not in page.value
    assert "word 5" in shown.text and "word 6" not in shown.text


def test_progress_line():
    bar = show.progress("run", 563)
    bar.first, bar.series["loss"] = (20, 100.0), [(120, 0.4812)]
    assert bar._line(120, 100.0 + 100 / 3.6) == "step 120/563 · 3.6 steps/s · 2:03 left · loss 0.48"
    assert bar._line(21, 104.0) == "step 21/563 · 4.0 s per step · 36:08 left · loss 0.48"


def test_progress_writes_the_line_to_a_file(monkeypatch, tmp_path, capsys):
    file = tmp_path / "line"
    monkeypatch.setenv("KIT_PROGRESS", str(file))
    bar = show.progress("run", 10)
    bar.note("loading")
    assert file.read_text() == "loading"
    bar.written = -9.0
    bar.update(3, loss=1.5)
    assert file.read_text() == "step 3/10 · loss 1.50"
    bar.update(4, loss=1.0)
    assert file.read_text() == "step 3/10 · loss 1.50"  # within the same second
    bar.finish("trained 10 steps")
    assert file.read_text() == "trained 10 steps"
    assert capsys.readouterr() == ("", "trained 10 steps\n")  # no terminal: the sentence alone


def test_progress_in_a_terminal_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = show.progress("run", 10)
    bar.note("loading the model")
    bar.note("checking")
    bar.finish("done")
    err = capsys.readouterr().err
    lines = [f"\r\x1b[K{line}" for line in ("loading the model", "checking", "done\n")]
    assert err == "".join(lines)  # each line first clears the one before


def test_only_the_first_process_shows_progress(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("KIT_PROGRESS", str(tmp_path / "line"))
    show.progress("run", 10).finish("done")
    assert not (tmp_path / "line").exists() and capsys.readouterr().err == ""


def test_updates_are_cheap():
    bar = show.progress("run", 10_000)
    start = time.perf_counter()
    for step in range(10_000):
        bar.update(step, loss=1.0)
    assert (time.perf_counter() - start) / 10_000 < 5e-5


CELL = """
import os, time
from kit import show
assert show.in_notebook()
bar = show.progress("run", 40)
bar.note("loading")
for step in range(1, 41):
    bar.written = bar.drawn = -9.0  # as if seconds had passed
    bar.update(step, loss=1 / step, validation=2 / step if step % 10 == 0 else None)
bar.finish("trained 40 steps")
child = os.fork()
if child == 0:
    os._exit(show.in_notebook())  # a fork of the kernel must not write to it
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_saved_notebook_holds_the_final_sentence_and_curve_alone():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data" and set(output.data) == {"text/plain", "text/html"}
    assert output.data["text/plain"] == "trained 40 steps"
    assert output.data["text/html"].startswith("<div>trained 40 steps</div><img alt=")
    assert "loss: 1 -&gt; 0.025, validation: 0.2 -&gt; 0.05" in output.data["text/html"]


def test_environment_holds_no_path_and_no_secret(monkeypatch):
    for name in ("KIT_CANARY", "USER", "LOGNAME", "HOME", "HOSTNAME", "KIT_CACHE", "HF_TOKEN"):
        monkeypatch.setenv(name, f"canary-{name}")
    shown = show.environment()
    text = shown.text + shown.rich
    assert "canary" not in text and str(Path.cwd()) not in text and os.uname().nodename not in text
    assert "/" not in shown.text and "\\" not in shown.text
    assert "torch" in text and "transformers" in text


def test_a_progress_file_that_is_gone_ends_no_training(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_PROGRESS", str(tmp_path / "gone" / "progress.txt"))
    line = show.progress("run", 3)
    line.note("loading")
    line.update(1, loss=2.0)
    line.finish("trained")
