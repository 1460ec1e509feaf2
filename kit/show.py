"""What a lesson shows: tables, figures, widgets, and the live progress of training.

Each figure is HTML with a text twin. Figures are transparent with mid-grey text, so they read in light and dark themes.
A widget is a second output behind its static twin; a saved notebook that is opened again shows the twin.
"""

import base64
import dis
import html
import io
import os
import platform
import re
import sys
import time
import uuid
from importlib import metadata
from pathlib import Path

from kit import chat

LESSONS = {"start here": "00_start_here", "tokenizer": "01_tokenizer", "completion SFT": "02_sft_completion",
           "chat SFT": "03_sft_chat", "DPO": "04_dpo", "evaluate": "05_evaluate", "your own task": "06_own_task",
           "LoRA": "07_lora", "GRPO": "08_grpo", "ship": "09_ship", "many GPUs": "10_many_gpus", "speed": "11_speed"}
GREY, DARK = "#777777", "#1a202c"  # text on any theme; text on our own pale boxes
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe and Ito (2008)
STYLE = {"font.size": 9, "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY,
         "ytick.color": GREY, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
LINE_SECONDS, CURVE_SECONDS = 1, 4  # least time between two lines and between two curves
CURVE_POINTS = 400  # a live curve draws at most this many points
NUMBER = re.compile(r"[-+]?[\d.,:]+ ?(%|x|[kMGT]?B|m?s)?( to .*| *\[.*\])?|-|nan|", re.IGNORECASE)
WIDGET = "application/vnd.jupyter.widget-view+json"
# JupyterLab draws an error for a widget whose kernel has gone: show the widget while it lives, else its twin.
LIVE_WIDGET = f"[data-mime-type='{WIDGET}'] > .jupyter-widgets"
SWITCH = f"""<style>
.jp-OutputArea-child:has(.kit-twin):has(+ .jp-OutputArea-child {LIVE_WIDGET}),
.jp-OutputArea-child:has(.kit-twin) + .jp-OutputArea-child:has([data-mime-type='{WIDGET}']):not(:has({LIVE_WIDGET}))
{{display: none}}</style>"""


def in_notebook():
    """Return whether this process is the kernel of a notebook; False in a terminal and in a forked process."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(getattr(getattr(shell, "kernel", None), "session", None), "pid", None) == os.getpid()


class Shown:
    """Something to look at: `text` for terminals, `rich` HTML for notebooks, `widget()` for a live notebook."""

    def __init__(self, text, *, rich=None, widget=None):
        self.text, self.rich, self.widget = text, rich, widget

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.text} | ({"text/html": self.rich} if self.rich else {})

    def _ipython_display_(self):
        if self.widget is None:
            raise NotImplementedError  # IPython then takes the bundle above
        from IPython.display import display

        live = in_notebook() and "KIT_PROGRESS" not in os.environ
        rich = f"<div class='kit-twin'>{self.rich}</div>{SWITCH if live else ''}"
        twin = display({"text/plain": self.text, "text/html": rich}, raw=True, display_id=uuid.uuid4().hex)
        if live:
            view = self.widget()._repr_mimebundle_()[WIDGET]
            display({"text/plain": "", WIDGET: view}, raw=True)

    def __str__(self):
        return self.text


class Progress:
    """One line in place, and in a live notebook a loss curve under it. Silent where nobody looks, and on rank > 0.

    A terminal shows the line on stderr. The environment variable KIT_PROGRESS names a file for the line.
    """

    def __init__(self, title, total, unit="step"):
        self.title, self.total, self.unit, self.first, self.rank = title, total, unit, None, os.environ.get("RANK", "0")
        self.series, self.curve, self.handle, self.drawn, self.written = {"loss": []}, "", None, 0.0, 0.0
        self.notebook, self.width = in_notebook(), 0

    def note(self, text):
        """Show `text` at once in place of the line, for example "loading"."""
        self._write(text)

    def update(self, done, loss=None, validation=None):
        """Show that `done` of the total are done; calls in quick succession cost almost nothing."""
        now = time.monotonic()
        self.first = self.first or (done, now)
        for name, value in (("loss", loss), ("validation", validation)):
            if value is not None:
                self.series.setdefault(name, []).append((done, value))
        if now - self.written >= LINE_SECONDS:
            if now - self.drawn >= CURVE_SECONDS and len(self.series["loss"]) > 1 and self.notebook:
                self._draw()
            self._write(self._line(done, now))

    def finish(self, text):
        """Leave the sentence `text` and the final curve; a terminal and a log get the sentence."""
        if self.notebook and len(self.series["loss"]) > 1:
            self._draw()
        self._write(text, end="\n")

    def _line(self, done, now):
        rate = (done - self.first[0]) / max(now - self.first[1], 1e-9)
        parts = [f"{self.unit} {done:,}/{self.total:,}"]
        if rate:
            minutes, seconds = divmod(round((self.total - done) / rate), 60)
            speed = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s per {self.unit}"
            parts += [speed, f"{minutes}:{seconds:02} left"]
        if self.series["loss"]:
            parts.append(f"loss {self.series['loss'][-1][1]:.2f}")
        return " · ".join(parts)

    def _draw(self):
        self.drawn = time.monotonic()
        thin = {name: points[:: -(-len(points) // CURVE_POINTS)] for name, points in self.series.items() if points}
        self.curve = curves(thin, smooth=0.9, x=self.unit, y="loss (nats per token)", title=self.title).rich

    def _write(self, line, end=""):
        self.written = time.monotonic()
        if self.rank != "0":
            return
        if "KIT_PROGRESS" in os.environ:
            Path(os.environ["KIT_PROGRESS"]).write_text(line, encoding="utf-8")
        if self.notebook:
            self._display(line)
        elif sys.stderr.isatty():
            print(f"\r{line:{self.width}}", end=end, file=sys.stderr, flush=True)
            self.width = len(line)
        elif end and line:
            print(line, file=sys.stderr, flush=True)

    def _display(self, line):
        from IPython.display import display

        bundle = {"text/plain": line, "text/html": f"<div>{html.escape(line)}</div>{self.curve}"}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=uuid.uuid4().hex)
        else:
            self.handle.update(bundle, raw=True)


def progress(title, total, unit="step"):
    """Return the Progress of `total` steps (or another `unit`)."""
    return Progress(title, total, unit)


def table(headers, rows):
    """A table of strings: HTML in a notebook, aligned columns as text."""
    cells = [[str(c) for c in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    head, *body = ["".join(f"<t{'h' if i == 0 else 'd'} align='left'>{html.escape(c)}</t{'h' if i == 0 else 'd'}>"
                           for c in row) for i, row in enumerate(cells)]
    rich = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{b}</tr>' for b in body)}</tbody></table>"
    return Shown("\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]), rich=rich)


def scores(results):
    """The scores of one model, a line a group."""
    return table(["score", "rate", "95% interval", "n"],
                 [[name, f"{s['rate']:.1%}", f"{s['low']:.1%} to {s['high']:.1%}", s["n"]]
                  for name, s in results.as_dict().items()])


def scoreboard(stages):
    """One row a stage, one column a score with its interval; `stages` is {stage: Results.as_dict()}."""
    names = list(dict.fromkeys(name for scores in stages.values() for name in scores))
    n = {name: next(s[name]["n"] for s in stages.values() if name in s) for name in names}
    return table(["stage", *[f"{name} (n={n[name]})" for name in names]],
                 [[stage, *["{rate:.1%} [{low:.1%}, {high:.1%}]".format(**s[k]) if k in s else "-" for k in names]]
                  for stage, s in stages.items()])


def checks(items):
    """The preflight table."""
    return table(["check", "", "found"], [[c.name, "ok" if c.passed else "FAILED", c.detail] for c in items])


def _png(draw, width, height):
    """PNG bytes of what `draw(axes)` draws, `width` x `height` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def course_map(lit):
    """The lessons in order, with lesson number `lit` filled in."""
    def draw(axes):
        for i, name in enumerate(LESSONS):
            style = {"facecolor": "#2b6cb0" if i == lit else "#edf2f7", "edgecolor": "#4a5568"}
            axes.add_patch(_box(i * 1.3, 0, 1.1, 0.6, **style))
            axes.text(i * 1.3 + 0.55, 0.3, f"{i:02}\n{name}", ha="center", va="center", fontsize=8,
                      color="white" if i == lit else "#1a202c")
            if i:
                axes.annotate("", (i * 1.3, 0.3), (i * 1.3 - 0.2, 0.3), arrowprops={"arrowstyle": "->"})
        axes.set(xlim=(-0.05, 1.3 * len(LESSONS) - 0.1), ylim=(-0.05, 0.65))
        axes.axis("off")

    text = " > ".join(f"[{i:02} {n}]" if i == lit else f"{i:02} {n}" for i, n in enumerate(LESSONS))
    return _picture(text, _png(draw, 9, 0.9))


def _box(x, y, width, height, **style):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", **style)


def curves(series, *, y="loss (nats per token)", x="step", smooth=0.0, title=""):
    """Lines of `series` {label: [(x, y), ...]}; `smooth` in [0, 1) adds a bias-corrected moving average."""
    def draw(axes):
        for label, points in series.items():
            xs, ys = zip(*points, strict=True)
            line, = axes.plot(xs, ys, label=label, alpha=0.35 if smooth else 1, linewidth=1.2)
            if smooth:
                axes.plot(xs, _average(ys, smooth), color=line.get_color(), linewidth=1.8)
        axes.set(xlabel=x, ylabel=y)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(frameon=False)

    ends = ", ".join(f"{label}: {points[0][1]:.3f} -> {points[-1][1]:.3f}" for label, points in series.items())
    return _picture(f"{y} by {x}: {ends}", _png(draw, 6, 2.6))


def _average(values, decay):
    """Exponential mean divided by its weight so far; without that, the first points are pulled towards zero."""
    total = weight = 0.0
    out = []
    for value in values:
        total, weight = decay * total + (1 - decay) * value, decay * weight + 1 - decay
        out.append(total / weight)
    return out


def token_lens(tokenizer, encoded, losses=None):
    """The tokens of one example: control, trained or ignored; under each trained one its loss in nats.

    `losses`: one number per id (see `token_losses`), optional.
    """
    control = {tokenizer.convert_tokens_to_ids(t) for t in chat.CONTROL_TOKENS}
    rows = []
    for at, (i, mask) in enumerate(zip(encoded.input_ids, encoded.loss_mask, strict=True)):
        kind = "control" if i in control else "trained" if mask else "ignored"
        rows.append((tokenizer.decode([i]), kind, mask, losses[at] if losses is not None and mask else None))
    lines = [f"{text!r:14} {kind:8} {'trained' if mask else '':8}" + (f" {loss:6.3f}" if loss is not None else "")
             for text, kind, mask, loss in rows]
    return _picture("\n".join(lines), _png(*_lens(rows)))


def _lens(rows):
    """(draw, width, height) of the token lens: boxes that wrap after 72 characters."""
    places, x, y = [], 0.0, 0
    for text, *_ in rows:
        width = max(len(text), 4) + 1
        if x + width > 78:
            x, y = 0.0, y + 1
        places.append((x, y, width))
        x += width

    def draw(axes):
        for (text, kind, mask, loss), (x, y, width) in zip(rows, places, strict=True):
            axes.add_patch(_box(x, -y * 2.4, width - 0.3, 1.2, facecolor={"trained": "#b7e4c7", "ignored": "#e9ecef", "control": "#a9c9f5"}[kind],
                                edgecolor="#2d6a4f" if mask else "#adb5bd", linewidth=1.6 if mask else 0.8))
            shown = text.replace("\n", "\\n").replace(" ", "\u00b7").replace("$", r"\$")
            axes.text(x + width / 2, 0.6 - y * 2.4, shown, ha="center", va="center", family="monospace", fontsize=8)
            if loss is not None:
                axes.text(x + width / 2, -0.5 - y * 2.4, f"{loss:.2f}", ha="center", va="center", fontsize=7)
        axes.set(xlim=(-0.5, 79), ylim=(-places[-1][1] * 2.4 - 1.2, 1.5),
                 title="blue: control   green: trained   grey: ignored   dark rim: in the loss   number: nats")
        axes.title.set_fontsize(8)
        axes.axis("off")

    return draw, 9, 0.5 + 0.45 * (places[-1][1] + 1)


def token_losses(model, encoded):
    """Loss in nats of predicting each id from those before it; the first has none and gets 0."""
    import torch

    ids = torch.tensor([encoded.input_ids], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].float()
    return [0.0, *torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()]


def before_after(prompts, before, after, wanted):
    """The same prompts answered by two models, with the wanted answer; a live notebook adds a slider over rows."""
    rows = list(zip(prompts, before, after, wanted, strict=True))
    headers = ["prompt", "before", "after", "wanted"]
    static = table(headers, rows[:6])

    def widget():
        import ipywidgets as widgets

        page = widgets.HTML(table(headers, rows[:6]).rich)
        at = widgets.IntSlider(0, 0, max(len(rows) - 6, 0), description="from row")
        at.observe(lambda to: setattr(page, "value", table(headers, rows[to.new : to.new + 6]).rich), "value")
        return widgets.VBox([at, page])

    return Shown(static.text, rich=static.rich, widget=widget)


def chat_box(model, tokenizer, system, script):
    """Talk with the model. The static twin is the conversation that `script`, a list of user turns, leads to."""
    from kit import scoring

    def answer(messages, text):
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": scoring.replies(model, tokenizer, [messages])[0]})
        return messages

    messages = [{"role": "system", "content": system}]
    for text in script:
        answer(messages, text)
    static = table(["role", "content"], [[m["role"], m["content"]] for m in messages])

    def widget():
        import ipywidgets as widgets

        live = list(messages)
        page, box = widgets.HTML(static.rich), widgets.Text(placeholder="type a schedule, press Enter")

        def submit(_):
            page.value = table(["role", "content"], [[m["role"], m["content"]] for m in answer(live, box.value)]).rich
            box.value = ""

        box.on_submit(submit)
        return widgets.VBox([page, box])

    return Shown(static.text, rich=static.rich, widget=widget)


def memory_plan(model="Qwen3-0.6B", **settings):
    """GPU memory of each way to train `model`, term by term; the settings are those of kit.planner.memory_plan."""
    from kit import planner

    return planner.memory_plan(model, **settings)


def environment():
    """What a bug report needs: versions and hardware; no path, no name, no environment variable."""
    import os

    import torch

    rows = [["python", platform.python_version()], ["system", f"{platform.system()} {platform.machine()}"],
            ["cores", str(os.cpu_count())],
            ["accelerator", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"]]
    for name in ("torch", "transformers", "accelerate", "trl", "datasets", "peft", "tokenizers"):
        rows.append([name, metadata.version(name)])
    return table(["", ""], rows)


def _picture(text, png):
    return Shown(text, rich=f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">')
