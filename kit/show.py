"""What a lesson shows: tables, figures, widgets, exercise verdicts, and the live progress of training.

Everything has a text twin and HTML. Figures are transparent with mid-grey text: they read in light and dark themes.
A widget is a second output behind its static twin, and a notebook that is opened again shows the twin.
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
from importlib import metadata
from pathlib import Path

from kit.errors import KitError

LESSONS = {
    "00_start_here": "start here", "01_tokenizer": "tokenizer", "02_sft_completion": "completion SFT",
    "03_sft_chat": "chat SFT", "04_dpo": "DPO", "05_evaluate": "evaluate", "06_own_task": "your own task",
    "07_lora": "LoRA", "08_grpo": "GRPO", "09_ship": "ship", "10_many_gpus": "many GPUs", "11_speed": "speed"}
GREY, DARK, BLUE, ORANGE, RED = "#777777", "#1a202c", "#0072B2", "#E69F00", "#D55E00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", RED, "#56B4E9")  # Okabe and Ito (2008)
FILLS = {"trained": "#b7e4c7", "ignored": "#e9ecef", "control": "#a9c9f5"}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
RIM = "#2f855a"  # round the tokens in the loss; reads on white, on black and on our pale boxes
CHIP = f"display:inline-block;color:{DARK};border-radius:5px;padding:2px 6px;margin:2px;text-align:center"
NUMBER = re.compile(r"[-+]?[\d.,:]+ ?(%|x|[kMGT]?B|m?s)?( to .*| *\[.*\])?|-|nan|", re.IGNORECASE)
LINE_SECONDS, CURVE_SECONDS, CURVE_POINTS = 1, 4, 400  # least time between two lines, two curves; points of a live curve
LONGEST = 2000  # characters of a message in the chat box
WIDGET = "application/vnd.jupyter.widget-view+json"
# JupyterLab writes an error where a widget's kernel has gone. Show a widget (JupyterLab
# wraps it in an .lm-Panel) while it lives, and its twin otherwise.
SWITCH = """<style>.jp-OutputArea-child:has(.kit-twin):has(+ .jp-OutputArea-child > .lm-Panel > .jupyter-widgets),
.jp-OutputArea-child:has(.kit-twin) + .jp-OutputArea-child:has(> .lm-Panel):not(:has(> .lm-Panel > .jupyter-widgets))
{display: none}</style>"""


def in_notebook():
    """Return whether this process is the kernel of a notebook: not a terminal, not a fork of a kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(getattr(getattr(shell, "kernel", None), "session", None), "pid", None) == os.getpid()


class Shown:
    """Something to look at: `text` for terminals, `rich` HTML for notebooks, `widget()` for a live notebook."""

    def __init__(self, text, *, rich=None, widget=None):
        self.text, self.rich, self.widget = text, rich, widget

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.text} | ({"text/html": self.rich} if self.rich else {})

    def _ipython_display_(self):
        if self.widget is None or not in_notebook() or "KIT_PROGRESS" in os.environ:
            raise NotImplementedError  # IPython then takes the bundle above
        from IPython.display import display

        twin = f"<div class='kit-twin'>{self.rich}</div>{SWITCH}"
        display({"text/plain": self.text, "text/html": twin}, raw=True)
        display({"text/plain": "", WIDGET: self.widget()._repr_mimebundle_()[WIDGET]}, raw=True)

    def __str__(self):
        return self.text


class Progress:
    """One line in place, and in a live notebook a loss curve under it; silent where nobody looks and on rank > 0.

    A terminal shows the line on stderr. The environment variable KIT_PROGRESS names a file for the line.
    """

    def __init__(self, title, total, unit="step"):
        self.title, self.total, self.unit, self.series = title, total, unit, {"loss": []}
        self.first, self.display, self.curve, self.width = None, None, "", 0
        self.written = self.drawn = 0.0

    def note(self, text):
        """Show `text` at once in place of the line, for example "loading"."""
        self._write(text)

    def update(self, done, loss=None, validation=None, reward=None):
        """Show that `done` of the total are done; calls in quick succession cost almost nothing."""
        now = time.monotonic()
        self.first = self.first or (done, now)
        for name, value in (("loss", loss), ("validation", validation), ("reward", reward)):
            if value is not None:
                self.series.setdefault(name, []).append((done, value))
        if now - self.written >= LINE_SECONDS:
            if now - self.drawn >= CURVE_SECONDS:
                self._draw()
            self._write(self._line(done, now))

    def finish(self, text):
        """Leave the sentence `text` and the final curve."""
        self._draw()
        self._write(text, end="\n")

    def _line(self, done, now):
        parts, rate = [f"{self.unit} {done:,}/{self.total:,}"], (done - self.first[0]) / max(now - self.first[1], 1e-9)
        if rate:
            minutes, seconds = divmod(round((self.total - done) / rate), 60)
            speed = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s per {self.unit}"
            parts += [speed, f"{minutes}:{seconds:02} left"]
        last = {name: self.series.get(name) for name in ("loss", "reward")}
        return " · ".join(parts + [f"{name} {points[-1][1]:.2f}" for name, points in last.items() if points])

    def _draw(self):
        if in_notebook() and len(self.series["loss"]) > 1:
            thin = {k: [*points[:: len(points) // CURVE_POINTS + 1], points[-1]] for k, points in self.series.items()}
            self.curve, self.drawn = curves(thin, smooth=0.9, x=self.unit, title=self.title).rich, time.monotonic()

    def _write(self, line, end=""):
        self.written = time.monotonic()
        if os.environ.get("RANK", "0") != "0":
            return
        if "KIT_PROGRESS" in os.environ:
            Path(os.environ["KIT_PROGRESS"]).write_text(line, encoding="utf-8")
        if in_notebook():
            from IPython.display import DisplayHandle

            update, self.display = self.display is not None, self.display or DisplayHandle()
            bundle = {"text/plain": line, "text/html": f"<div>{html.escape(line)}</div>{self.curve}"}
            self.display.display(bundle, raw=True, update=update)
        elif sys.stderr.isatty():
            print(f"\r{line:{self.width}}", end=end, file=sys.stderr, flush=True)
            self.width = len(line)
        elif end and line:
            print(line, file=sys.stderr, flush=True)


progress = Progress


def table(headers, rows, code=(), style=lambda row, column: ""):
    """Return a table: text to the left, columns of numbers to the right, the columns named in `code` in monospace.

    `style(row, column)` returns more CSS for a cell; `row` is that of `rows`, `column` a header.
    """
    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    columns = list(zip(*cells, strict=True))
    right = [any(column[1:]) and all(map(NUMBER.fullmatch, column[1:])) for column in columns]
    widths, lines, rich = [max(map(len, column)) for column in columns], [], []
    for at, row in enumerate(cells):
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
        tag, parts = "td" if at else "th", []
        for cell, name, number in zip(row, cells[0], right, strict=True):
            css = f"text-align:{'right' if number else 'left'};padding:3px 12px 3px 4px;vertical-align:top;line-height:1.4;"
            css += "border-bottom:1px solid rgba(128,128,128,0.35);" + ("font-family:monospace;" if at and name in code else "")
            parts.append(f'<{tag} style="{css}{style(at - 1, name) if at else ""}">{html.escape(cell)}</{tag}>')
        rich.append(f"<tr>{''.join(parts)}</tr>")
    rich = f"<thead>{rich[0]}</thead><tbody>{''.join(rich[1:])}</tbody>"
    return Shown("\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]),
                 rich=f'<table style="border-collapse:collapse;font-size:13px">{rich}</table>')


def scores(results):
    """Return the table of one model's scores, one row per group."""
    rows = results.as_dict().items()
    return table(["score", "rate", "95% interval", "n"],
                 [[name, f"{s['rate']:.1%}", f"{s['low']:.1%} to {s['high']:.1%}", s["n"]] for name, s in rows])


def _groups(stages):
    """Return {group: its number of questions} of {stage: Results.as_dict()}."""
    return {name: score["n"] for groups in stages.values() for name, score in groups.items()}


def scoreboard(stages):
    """Return one row per stage, one column per group with its interval; `stages` is {stage: Results.as_dict()}."""
    groups, cell = _groups(stages), "{rate:.1%} [{low:.1%}, {high:.1%}]".format
    return table(["stage", *[f"{name} (n={n})" for name, n in groups.items()]],
                 [[stage, *[cell(**s[k]) if k in s else "-" for k in groups]] for stage, s in stages.items()])


def checks(items):
    """Return the preflight table."""
    return table(["check", "", "result"], [[c.name, "ok" if c.passed else "FAILED", c.detail] for c in items])


def answer(reply, check):
    """Print "not answered yet", "correct", or what is wrong with a learner's `reply`, a function or a value."""
    if reply is ... or _is_stub(reply):
        return print("not answered yet")
    try:
        check(reply)
        print("correct")
    except Exception as error:  # whatever the learner's code raises
        kind = "" if isinstance(error, AssertionError) else f"your answer raised {type(error).__name__}: "
        print(f"not right yet: {kind}{error}")


def _is_stub(reply):
    """Return whether `reply` is a function whose body is `...`."""
    steps = {step.opname for step in dis.get_instructions(reply)} if hasattr(reply, "__code__") else {"a value"}
    empty = steps <= {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    return empty and not set(reply.__code__.co_consts) - {None, ..., reply.__doc__}


def picture(draw, width, height, text):
    """Return what `draw(axes)` draws on `width` x `height` hundreds of screen pixels, with `text` as its alt text."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": matplotlib.cycler(color=PALETTE)}):
        figure = Figure(figsize=(width, height), dpi=200, layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        FigureCanvasAgg(figure).print_png(buffer)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Shown(text, rich=f'<img alt="{html.escape(text)}" width="{100 * width:.0f}" src="{source}">')


def course_map(lit):
    """Return the lessons in order as links, with lesson number `lit` filled in."""
    links, names = [], [f"{file[:2]} {name}" for file, name in LESSONS.items()]
    for at, (file, name) in enumerate(zip(LESSONS, names, strict=True)):
        colours = f"background:{BLUE};color:white" if at == lit else f"background:#edf2f7;color:{DARK}"
        links.append(f'<a href="{file}.ipynb" style="{CHIP};text-decoration:none;{colours}">{name}</a>')
    names[lit] = f"[{names[lit]}]"
    return Shown(" > ".join(names), rich=f'<div style="max-width:760px;font-size:12px">{"".join(links)}</div>')


def curves(series, *, y="loss (nats per token)", x="step", smooth=0.0, log="", title=""):
    """Return lines of `series` {label: [(x, y), ...]}; a label with "validation" in it gets points.

    `smooth` in [0, 1) adds a moving average to each line. `log`: "", "x", "y" or "xy".
    """
    from pandas import Series

    def draw(axes):
        for label, points in series.items():
            xs, ys = zip(*points, strict=True)
            points, smoothed = "validation" in label, smooth and "validation" not in label
            line, = axes.plot(xs, ys, "o--" if points else "-", label=label, markersize=4, alpha=0.35 if smoothed else 1)
            if smoothed:  # pandas divides by the weights so far: the first points are not pulled to zero
                axes.plot(xs, Series(ys).ewm(alpha=1 - smooth).mean(), color=line.get_color(), linewidth=1.8)
        scale = {"xscale": "log" if "x" in log else "linear", "yscale": "log" if "y" in log else "linear"}
        axes.set(xlabel=x, ylabel=y, title=title, **scale)

    ends = ", ".join(f"{label}: {points[0][1]:.3f} -> {points[-1][1]:.3f}" for label, points in series.items())
    return picture(draw, 6.4, 2.8, f"{y} by {x}: {ends}")


def scoreboard_chart(stages):
    """Return the rate of each group with its 95% interval, one colour per stage; `stages` as in scoreboard."""
    groups = list(_groups(stages))

    def draw(axes):
        for at, (stage, s) in enumerate(stages.items()):
            rate, low, high = ([100 * score[key] for score in s.values()] for key in ("rate", "low", "high"))
            xs = [groups.index(name) + 0.8 * (at + 0.5) / len(stages) - 0.4 for name in s]
            bars = [[r - v for r, v in zip(rate, low, strict=True)], [v - r for r, v in zip(rate, high, strict=True)]]
            axes.errorbar(xs, rate, yerr=bars, fmt="osD^v<>P"[at % 8], capsize=3, label=stage)
        axes.set(ylabel="% with 95% interval", ylim=(-3, 103))
        axes.set_xticks(range(len(groups)), groups)

    return picture(draw, 7.6, 2.8, scoreboard(stages).text)


def confusion(counts, corner="right answer"):
    """Return the heat map of {kind of the right answer: {kind of the reply: count}}; darker is more of its row."""
    kinds = list(dict.fromkeys([*counts, *[kind for row in counts.values() for kind in row]]))
    rows = [[name, *[row.get(kind, 0) for kind in kinds]] for name, row in counts.items()]

    def style(at, kind):
        share = dict(zip(kinds, rows[at][1:], strict=True)).get(kind, 0) / max(sum(rows[at][1:]), 1)
        return f"background:rgba(0,114,178,{0.7 * share:.2f});{'font-weight:bold' if kind == rows[at][0] else ''}"

    return table([corner, *kinds], rows, style=style)


def _chips(tokenizer, encoded, columns):
    """Return each token as a box over its values in `columns` {name: [value per token]}, with a legend of swatches."""
    control, boxes, rows = set(tokenizer.get_added_vocab().values()), [], []
    for at, (i, mask) in enumerate(zip(encoded.input_ids, encoded.loss_mask, strict=True)):
        kind, token = "control" if i in control else "trained" if mask else "ignored", tokenizer.decode([i])
        values = [str(column[at]) for column in columns.values()]
        rows.append([repr(token), kind, "in the loss" if mask else "", *values])
        face = html.escape(token.replace("\n", "\\n").replace(" ", "\u00b7"))
        css = f"{CHIP};background:{FILLS[kind]};border:2px solid {RIM if mask else GREY};font:13px monospace"
        boxes.append(f'<span style="{css}">{"<br>".join([f"<b>{face}</b>" if mask else face, *values])}</span>')
    legend = [f'<span style="{CHIP};background:{fill}">{kind}</span>' for kind, fill in FILLS.items()]
    legend.append(f'<span style="{CHIP};background:white;border:2px solid {RIM}"><b>bold, green rim</b>: in the loss</span>')
    below = f" below each token: {', '.join(columns)}" if columns else ""
    legend = f"<div style='font-size:12px'>{''.join(legend)}{below}</div>"
    return Shown(table(["token", "kind", "", *columns], rows).text, rich=f"{legend}<div>{''.join(boxes)}</div>")


def token_lens(tokenizer, encoded, losses=None):
    """Return the tokens of one example by kind; `losses` adds the loss in nats of each trained one (token_losses)."""
    nats = [f"{loss:.2f}" if mask else "" for loss, mask in zip(losses or [], encoded.loss_mask, strict=False)]
    return _chips(tokenizer, encoded, {"loss in nats": nats} if nats else {})


def strip(tokenizer, messages, encoded):
    """Return how messages become ids, loss mask and labels: the messages above, each token over its three numbers."""
    talk = table(["role", "content"], [[m["role"], m["content"]] for m in messages])
    numbers = {"id": encoded.input_ids, "loss mask": encoded.loss_mask, "label": encoded.labels}
    tokens = _chips(tokenizer, encoded, numbers)
    return Shown(f"{talk.text}\n\n{tokens.text}", rich=talk.rich + tokens.rich)


def token_losses(model, encoded):
    """Return the loss in nats of predicting each id from those before it; the first id has none and gets 0."""
    import torch

    ids = torch.tensor([encoded.input_ids], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].float()
    return [0.0, *torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()]


def embedding_rows(weight, new):
    """Return the rows `new` {label: id} of the table `weight` (vocabulary x hidden) beside the old rows and their mean.

    The plane is that of the first two principal components.
    """
    import torch

    rows, ids = weight.detach().float().cpu(), list(new.values())
    old = rows[[i for i in range(len(rows)) if i not in ids]]
    mean, some = old.mean(0), old[:: len(old) // 2000 + 1]
    plane = torch.linalg.svd(torch.cat([some, rows[ids]]) - mean, full_matrices=False).Vh[:2].T

    def draw(axes):
        axes.scatter(*((some - mean) @ plane).T, s=4, color=GREY, alpha=0.4, label="old rows")
        axes.scatter([0], [0], marker="*", s=130, color=ORANGE, label="their mean")
        axes.scatter(*((rows[ids] - mean) @ plane).T, s=36, color=RED, label="new rows")
        for label, place in zip(new, ((rows[ids] - mean) @ plane).tolist(), strict=True):
            axes.annotate(label, place, (5, 4), textcoords="offset points", color=RED)

    lengths = [f"{name}: norm {rows[i].norm():.2f}, {(rows[i] - mean).norm():.2f} from the mean" for name, i in new.items()]
    return picture(draw, 6.4, 3.4, f"old rows: mean norm {old.norm(dim=1).mean():.2f}; " + "; ".join(lengths))


def boxes(holdings, unit="GB", limit=None):
    """Return what each GPU holds: `holdings` {GPU or way: {part: size}} as stacked bars, `limit` as a line."""
    parts = list(dict.fromkeys(part for sizes in holdings.values() for part in sizes))

    def draw(axes):
        for at, part in enumerate(parts):
            left = [sum(sizes.get(p, 0) for p in parts[:at]) for sizes in holdings.values()]
            axes.barh(list(holdings), [sizes.get(part, 0) for sizes in holdings.values()], 0.6, left, label=part)
        if limit:
            axes.axvline(limit, color=RED, linestyle="--", label=f"{limit:g} {unit}")
        axes.invert_yaxis()
        axes.set(xlabel=unit)

    rows = [[name, *[f"{s.get(p, 0):.2f}" for p in parts], f"{sum(s.values()):.2f}"] for name, s in holdings.items()]
    return picture(draw, 7.6, 1 + 0.36 * len(holdings), table([unit, *parts, "sum"], rows).text)


def roofline(peak, bandwidth, points):
    """Return `points` {label: (operations per byte, operations per second)} under the bound of a processor.

    The bound is min(peak, bandwidth x operations per byte), `bandwidth` in bytes per second (Williams 2009).
    """
    xs = sorted([peak / bandwidth, *[x * factor for x, _ in points.values() for factor in (0.25, 4)]])

    def draw(axes):
        axes.loglog(xs, [min(peak, bandwidth * x) for x in xs], linewidth=2, label="bound")
        for at, (label, (x, y)) in enumerate(points.items()):
            axes.loglog([x], [y], "osD^v<>P"[at % 8], label=label)
        axes.set(xlabel="operations per byte", ylabel="operations per second")

    rows = [[name, f"{x:.3g}", f"{y / min(peak, bandwidth * x):.0%}", "memory" if bandwidth * x < peak else "arithmetic"]
            for name, (x, y) in points.items()]
    return picture(draw, 7.2, 2.8, table(["part", "operations per byte", "of the bound", "limited by"], rows).text)


DPO = (("pair\nprompt, chosen, rejected", 0, 0.5), ("policy (trained)", 1.3, 1), ("reference (frozen)", 1.3, 0),
       ("policy gap:\nlogp chosen - logp rejected", 2.7, 1), ("reference gap:\nlogp chosen - logp rejected", 2.7, 0),
       ("loss = -log sigmoid(beta x\n(policy gap - reference gap))", 4.3, 0.5))


def diagram(name):
    """Return the picture of an idea; "dpo": from a pair over policy and reference to the loss."""
    nodes, arrows = {"dpo": (DPO, ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)))}[name]

    def draw(axes):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#edf2f7", "edgecolor": GREY}
        faces = [axes.text(x, y, text, ha="center", va="center", color=DARK, bbox=box).get_bbox_patch()
                 for text, x, y in nodes]
        for start, end in arrows:
            arrow = {"arrowstyle": "->", "color": GREY, "patchA": faces[start], "patchB": faces[end]}
            axes.annotate("", nodes[end][1:], nodes[start][1:], arrowprops=arrow)
        axes.set(xlim=(-0.7, nodes[-1][1] + 0.8), ylim=(-0.4, 1.4))
        axes.axis("off")

    return picture(draw, 8.4, 1.9, "; ".join(f"{nodes[a][0]} -> {nodes[b][0]}".replace("\n", " ") for a, b in arrows))


def before_after(prompts, before, after, wanted):
    """Return the same prompts answered by two models, with the wanted answer; a live notebook adds a slider over rows."""
    rows, headers = list(zip(prompts, before, after, wanted, strict=True)), ["prompt", "before", "after", "wanted"]

    def page(start):
        return table(headers, rows[start : start + 6], code=headers[1:])

    def widget():
        import ipywidgets as widgets

        view = widgets.HTML(page(0).rich)
        start = widgets.IntSlider(0, 0, max(len(rows) - 6, 0), description="from row")
        start.observe(lambda change: setattr(view, "value", page(change.new).rich), "value")
        return widgets.VBox([start, view])

    return Shown(page(0).text, rich=page(0).rich, widget=widget)


def _bubbles(messages, notice=""):
    """Return a conversation as HTML: the user to the right, the model to the left, `notice` below."""
    lines = []
    for message in messages:
        css = "margin:5px 0 0 25%;background:rgba(0,114,178,0.2)" if message["role"] == "user" else (
            "margin:5px 25% 0 0;background:rgba(128,128,128,0.18)")
        lines.append(f'<div style="{css};padding:5px 10px;border-radius:8px;overflow-wrap:anywhere;line-height:1.4">'
                     f'<small>{message["role"]}</small><br>{html.escape(message["content"])}</div>')
    notice = f'<div style="padding:5px 10px"><i>{html.escape(notice)}</i></div>'
    return f'<div role="log" aria-live="polite" style="max-width:640px">{"".join(lines)}{notice}</div>'


def chat_box(model, tokenizer, system, script=(), *, answer, **options):
    """Return a chat with the model; its static twin is the conversation that the user turns of `script` lead to.

    `answer(model, tokenizer, messages, text, **options)` returns the messages with the user's text and the reply.
    The live conversation starts with the system message alone.
    """
    def reply(messages, text):
        return answer(model, tokenizer, messages, text, **options)

    start = messages = [{"role": "system", "content": system}] if system else []
    for text in script:
        messages = reply(messages, text)
    lines = "\n".join(f"{m['role']}: {m['content']}" for m in messages)
    return Shown(lines, rich=_bubbles(messages), widget=lambda: Chat(start, reply).view)


class Chat:
    """The widgets of a chat box; `reply(messages, text)` returns the messages with `text` and the model's answer."""

    def __init__(self, start, reply):
        import ipywidgets as widgets

        self.start, self.messages, self.reply, self.page = start, start, reply, widgets.HTML(_bubbles(start))
        self.box = widgets.Text(description="Your message", placeholder="type a message, press Enter",
                                style={"description_width": "initial"}, layout={"width": "440px"})
        self.send, self.new = (widgets.Button(description=text) for text in ("Send", "New conversation"))
        self.box.on_submit(self.submit)
        self.send.on_click(self.submit)
        self.new.on_click(self.restart)
        self.view = widgets.VBox([self.page, widgets.HBox([self.box, self.send, self.new])])
        if in_notebook():
            events = sys.modules["IPython"].get_ipython().events
            events.register("pre_run_cell", lambda _: self.show("a cell is running; a message waits until it ends"))
            events.register("post_run_cell", lambda _: self.show())

    def show(self, notice="", messages=()):
        """Draw the conversation, more `messages` and a notice."""
        self.page.value = _bubbles([*self.messages, *messages], notice)

    def restart(self, _=None):
        """Start over with the system message alone."""
        self.messages = self.start
        self.show()

    def submit(self, _=None):
        """Show the message at once, then the reply; an empty message or one that is too long gets no reply."""
        text, notice = self.box.value.strip(), ""
        if len(text) > LONGEST:
            notice = f"expected at most {LONGEST:,} characters, got {len(text):,}; shorten the message"
        elif text and not self.send.disabled:
            self.box.value, self.send.disabled = "", True
            self.show("thinking ...", [{"role": "user", "content": text}])
            try:
                self.messages = self.reply(self.messages, text)
            except KitError as error:
                self.box.value, notice = text, str(error)
            finally:
                self.send.disabled = False
        self.show(notice)


def environment():
    """Return what a bug report needs: versions and hardware; no path, no name, no environment variable."""
    import torch

    rows = [["python", platform.python_version()], ["system", f"{platform.system()} {platform.machine()}"],
            ["cores", os.cpu_count()],
            ["accelerator", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"]]
    packages = ("torch", "transformers", "accelerate", "trl", "datasets", "peft", "tokenizers")
    return table(["part", "version"], rows + [[name, metadata.version(name)] for name in packages])
