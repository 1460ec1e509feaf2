"""What a lesson shows: tables, figures, widgets, exercise verdicts, and the progress of training.

Everything has a text twin and HTML. Figures are transparent with mid-grey text, so they read in
light and dark themes. A widget is a second output behind its static twin. JupyterLab shows the
widget while its kernel lives, and saves the twin alone.
"""

import base64
import contextlib
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

NAMES = (
    "00 start here", "01 tokenizer", "02 SFT completion", "03 SFT chat", "04 DPO", "05 evaluate",
    "06 own task", "07 LoRA", "08 GRPO", "09 ship", "10 many GPUs", "11 speed")
LESSONS = tuple(name.lower().replace(" ", "_") for name in NAMES)  # files of notebooks/
GREY, DARK, FAINT = "#777777", "#1a202c", "#edf2f7"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", GREY)
BLUE, RED = PALETTE[0], PALETTE[4]  # the palette: Okabe and Ito (2008)
MARKERS = "osD^v<>P"
FILLS = {"trained": "#b7e4c7", "ignored": "#e9ecef", "control": "#a9c9f5"}
RIM = "#2f855a"  # round the tokens in the loss; reads on white, on black and on the fills
CHIP = (f"display:inline-block;color:{DARK};border-radius:5px;padding:2px 6px;margin:2px;"
        "text-align:center;white-space:pre;")
NO_WRAP = "white-space:nowrap;"
CELL = ("padding:3px 10px 3px 4px;vertical-align:top;line-height:1.4;"
        "border-bottom:1px solid rgba(128,128,128,0.35);")
BUBBLE = "padding:5px 10px;border-radius:8px;overflow-wrap:break-word;line-height:1.4;"
GREYS = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE = dict.fromkeys(GREYS, GREY) | {"font.size": 9, "lines.linewidth": 1.8} | dict.fromkeys(
    ("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
NUMBER = re.compile(r"(= )?[-+]?[\d.,:]+(e[-+]\d+)?( ?(%|x|[kMGT]?B|m?s))?( to .*| *\[.*\])?"
                    "|-|nan|", re.IGNORECASE)
SHORT = 24  # characters of a cell that stays on one line
LINE_SECONDS, CURVE_SECONDS = 1, 4  # least time between two progress lines, two live curves
LONGEST = 2000  # characters of a message in the chat box
WIDGET = "application/vnd.jupyter.widget-view+json"
# A server without JUPYTER_CONFIG_PATH=configs saves the widget too, and JupyterLab then writes an
# error where its kernel has gone. Show a widget (JupyterLab wraps it in an .lm-Panel) while it
# lives, and its twin otherwise.
SWITCH = """<style>
.jp-OutputArea-child:has(.kit-twin):has(+ .jp-OutputArea-child > .lm-Panel > .jupyter-widgets),
.jp-OutputArea-child:has(.kit-twin)
 + .jp-OutputArea-child:has(> .lm-Panel):not(:has(> .lm-Panel > .jupyter-widgets))
{display: none}</style>"""


def in_notebook():
    """Return whether this process is the kernel of a notebook: no terminal, no fork of a kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    session = getattr(getattr(shell, "kernel", None), "session", None)
    return getattr(session, "pid", None) == os.getpid()


class Shown:
    """Something to look at: `text` for terminals, `rich` HTML for notebooks, `widget()` if live."""

    def __init__(self, text, *, rich=None, widget=None):
        self.text, self.rich, self.widget = text, rich, widget

    def __repr__(self):
        return self.text

    def _repr_html_(self):
        return self.rich

    def _ipython_display_(self):
        if self.widget is None or not in_notebook() or "KIT_PROGRESS" in os.environ:
            raise NotImplementedError  # IPython then takes the text and the HTML
        from IPython.display import display

        twin = f"<div class='kit-twin'>{self.rich}</div>{SWITCH}"
        display({"text/plain": self.text, "text/html": twin}, raw=True)
        live = {"text/plain": "", WIDGET: self.widget()._repr_mimebundle_()[WIDGET]}
        display(live, raw=True, metadata={"kit": "has a twin"})


def _jupyter_server_extension_points():
    return [{"module": "kit.show"}]  # named in configs/jupyter_server_config.d


def _load_jupyter_server_extension(server):
    """Make a Jupyter server save the twin of each widget alone."""
    server.contents_manager.register_pre_save_hook(_leave_out_widgets)


def _leave_out_widgets(model, **_):
    for cell in model["content"]["cells"] if model["type"] == "notebook" else []:
        outputs = cell.get("outputs", [])
        outputs[:] = [each for each in outputs if "kit" not in each.get("metadata", {})]


class Progress:
    """One line in place, in a live notebook a loss curve too; silent on rank > 0 or without reader.

    A terminal gets the line on stderr, and so does the file that KIT_PROGRESS names.
    """

    def __init__(self, title, total, unit="step"):
        self.title, self.total, self.unit, self.series = title, total, unit, {}
        self.first = self.display = None
        self.curve, self.written, self.drawn = "", 0.0, 0.0

    def update(self, done, **values):
        """Show that `done` of the total are done; calls in quick succession cost almost nothing.

        `values`: loss, validation and reward of this moment, as far as they are known.
        """
        now = time.monotonic()
        self.first = self.first or (done, now)
        for name, value in values.items():
            if value is not None:
                self.series.setdefault(name, []).append((done, value))
        if now - self.written >= LINE_SECONDS:
            if now - self.drawn >= CURVE_SECONDS:
                self._draw()
            self.note(self._line(done, now))

    def finish(self, text):
        """Leave the sentence `text` and the final curve."""
        self._draw()
        self.note(text, end="\n")

    def _line(self, done, now):
        parts = [f"{self.unit} {done:,}/{self.total:,}"]
        if rate := (done - self.first[0]) / max(now - self.first[1], 1e-9):
            minutes, seconds = divmod(round((self.total - done) / rate), 60)
            fast, slow = f"{rate:.1f} {self.unit}s/s", f"{1 / rate:.1f} s per {self.unit}"
            parts += [fast if rate >= 1 else slow, f"{minutes}:{seconds:02} left"]
        return " · ".join(parts + [f"{k} {points[-1][1]:.2f}" for k, points in self.series.items()])

    def _draw(self):
        if in_notebook() and len(self.series.get("loss", ())) > 1:
            y = "reward, loss" if "reward" in self.series else "loss (nats per token)"
            self.curve = curves(self.series, y=y, smooth=0.9, x=self.unit, title=self.title).rich
            self.drawn = time.monotonic()

    def note(self, line, end=""):
        """Show `line` at once in place of the last one, for example "loading"."""
        self.written = time.monotonic()
        if os.environ.get("RANK", "0") != "0":
            return
        if "KIT_PROGRESS" in os.environ:
            with contextlib.suppress(OSError):  # a lost line must not end a training
                Path(os.environ["KIT_PROGRESS"]).write_text(line, encoding="utf-8")
        if in_notebook():
            from IPython.display import display

            shown = Shown(line, rich=f"<div>{html.escape(line)}</div>{self.curve}")
            if self.display:
                self.display.update(shown)
            else:
                self.display = display(shown, display_id=True)
        elif sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end=end, file=sys.stderr, flush=True)  # \x1b[K: clear the line
        elif end and line:
            print(line, file=sys.stderr, flush=True)


progress = Progress


def table(headers, rows, code=(), style=lambda row, column: ""):
    """Return a table: text to the left, numbers to the right, the columns in `code` in monospace.

    `style(row, column)` returns more CSS for a cell of row number `row` under the header `column`.
    """
    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    columns = list(zip(*cells, strict=True))
    right = [any(c[1:]) and all(map(NUMBER.fullmatch, c[1:])) for c in columns]
    widths, lines, rich = [max(map(len, c)) for c in columns], [], []
    for at, row in enumerate(cells):
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)]
        lines.append("  ".join(padded).rstrip())
        rich.append("<tr>")
        for cell, name, number in zip(row, cells[0], right):
            short = len(cell) <= SHORT
            css = f"text-align:{'right' if number else 'left'};{CELL}{NO_WRAP * short}"
            text = html.escape(cell).replace(",", "," if short else ",<wbr>")  # JSON may wrap
            if at:
                css += style(at - 1, name) + "font-family:monospace;" * (name in code)
            tag = "td" if at else "th"
            rich[at] += f'<{tag} style="{css}">{text}</{tag}>'
    rich = f"<thead>{rich[0]}</tr></thead><tbody>{'</tr>'.join(rich[1:])}</tr></tbody>"
    return Shown("\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]),
                 rich=f'<table style="border-collapse:collapse;font-size:13px">{rich}</table>')


def scores(results):
    """Return the table of one model's scores, one row per group."""
    line = "{rate:.1%}|{low:.1%} to {high:.1%}|{n}".format
    return table(["score", "rate", "95% interval", "n"],
                 [[name, *line(**s).split("|")] for name, s in results.as_dict().items()])


def scoreboard(stages):
    """Return one row per stage, one column per group; `stages` is {stage: Results.as_dict()}."""
    sizes, cell = {}, "{rate:.1%} [{low:.1%}, {high:.1%}]".format
    for groups in stages.values():
        for name, s in groups.items():
            sizes.setdefault(name, {})[str(s["n"])] = None  # more than one where stages differ
    rows = [[stage, *[cell(**s[name]) if name in s else "-" for name in sizes]]
            for stage, s in stages.items()]
    return table(["stage", *[f"{name} (n={', '.join(n)})" for name, n in sizes.items()]], rows)


def answer(reply, check):
    """Print "not answered yet", "correct", or what is wrong with a learner's function or value."""
    if reply is ... or _is_stub(reply):
        return print("not answered yet")
    try:
        check(reply)
        print("correct")
    except Exception as error:  # whatever the learner's code raises
        cause = f"your answer raised {type(error).__name__}: "
        print(f"not right yet: {'' if isinstance(error, AssertionError) else cause}{error}")


def _is_stub(reply):
    """Return whether `reply` is a function whose body is `...`."""
    if not hasattr(reply, "__code__") or set(reply.__code__.co_consts) - {None, ..., reply.__doc__}:
        return False
    steps = {step.opname for step in dis.get_instructions(reply)}
    return steps <= {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}


def picture(draw, width, height, text):
    """Return what `draw(axes)` draws on `width` x `height` hundred pixels; `text` is its alt."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": matplotlib.cycler(color=PALETTE)}):
        figure = Figure((width, height), dpi=200, layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":  # 0.01 in place of a power with an exponent of 8 pixels
                low, high = axis.get_view_interval()
                axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("")
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(drawn)
    # 64 colours with transparency take a third of the bytes in a saved notebook.
    Image.open(drawn).quantize(64, method=2).save(small, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
    size = f'width="{100 * width:.0f}" src="{source}"'
    return Shown(text, rich=f'<img alt="{html.escape(text)}" {size}>')


def course_map(lit):
    """Return the lessons in order as links, with lesson number `lit` filled in."""
    links, names = [], list(NAMES)
    for at, name in enumerate(NAMES):
        colours = f"background:{BLUE};color:white" if at == lit else f"background:{FAINT}"
        style = f"{CHIP}text-decoration:none;{colours}"
        links.append(f'<a href="{LESSONS[at]}.ipynb" style="{style}">{name}</a>')
    names[lit] = f"[{NAMES[lit]}]"
    rich = f'<div style="max-width:760px;font-size:12px">{"".join(links)}</div>'
    return Shown(" > ".join(names), rich=rich)


def curves(series, *, y="loss (nats per token)", x="step", smooth=0.0, log="", title=""):
    """Return lines of `series` {label: [(x, y), ...]}; "validation" in a label gives it points.

    `smooth` in [0, 1) adds a moving average to each line. `log`: "", "x", "y" or "xy".
    """
    from pandas import Series

    def draw(axes):
        axes.locator_params(axis="x", integer=True)
        for label, points in series.items():
            xs, ys = zip(*points)
            marked, colour = "validation" in label or len(xs) == 1, None
            if smooth and not marked:
                colour = axes.plot(xs, ys, alpha=0.35)[0].get_color()
                # pandas divides by the weights so far: no pull to zero at the start
                ys = Series(ys).ewm(alpha=1 - smooth).mean()
            axes.plot(xs, ys, "o--" if marked else "-", color=colour, markersize=4, label=label)
        axes.set(xlabel=x, ylabel=y, title=title, **{f"{axis}scale": "log" for axis in log})

    ends = [f"{k}: {points[0][1]:.4g} -> {points[-1][1]:.4g}" for k, points in series.items()]
    return picture(draw, 6.4, 2.8, f"{y} by {x}: {', '.join(ends)}")


def histogram(values, limit):
    """Return how many rows have each number of ids, with `limit` as a vertical line."""
    def draw(axes):
        axes.hist(values, bins=40, label="rows")
        axes.axvline(limit, color=RED, linestyle="--", label=f"limit {limit:g}")
        axes.set(xlabel="ids per row", ylabel="rows")

    ordered = sorted(values)
    text = (f"rows by ids: from {ordered[0]:g} to {ordered[-1]:g}, "
            f"median {ordered[len(ordered) // 2]:g}, limit {limit:g}")
    return picture(draw, 6.4, 2.4, text)


def scoreboard_chart(stages):
    """Return the rate of each group with its 95% interval, one colour per stage of `stages`."""
    groups = list(dict.fromkeys(name for s in stages.values() for name in s))

    def draw(axes):
        for at, (stage, s) in enumerate(stages.items()):
            xs = [groups.index(name) + 0.8 * (at + 0.5) / len(stages) - 0.4 for name in s]
            rates = [100 * score["rate"] for score in s.values()]
            bars = [[100 * abs(score[end] - score["rate"]) for score in s.values()]
                    for end in ("low", "high")]
            axes.errorbar(xs, rates, yerr=bars, fmt=MARKERS[at % 8], capsize=3, label=stage)
        axes.set(ylabel="% with 95% interval", ylim=(-3, 103))
        axes.set_xticks(range(len(groups)), groups)

    return picture(draw, 7.6, 2.8, scoreboard(stages).text)


def confusion(counts, corner="right answer"):
    """Return the heat map of {right kind: {kind of the reply: count}}; darker: more of its row."""
    kinds = list(dict.fromkeys([*counts, *[kind for row in counts.values() for kind in row]]))
    names = list(counts)

    def style(at, kind):
        row = counts[names[at]]
        share = row.get(kind, 0) / max(sum(row.values()), 1)
        bold = "font-weight:bold;" if kind == names[at] else ""
        return f"background:rgba(0,114,178,{0.7 * share:.2f});{bold}"

    rows = [[name, *[row.get(kind, 0) for kind in kinds]] for name, row in counts.items()]
    return table([corner, *kinds], rows, style=style)


def _chips(tokenizer, encoded, columns):
    """Return each token as a box over its values in `columns` {name: [value per token]}."""
    control, chips, rows = set(tokenizer.get_added_vocab().values()), [], []
    for at, (i, mask) in enumerate(zip(encoded.input_ids, encoded.loss_mask)):
        kind = "control" if i in control else "trained" if mask else "ignored"
        token, values = tokenizer.decode([i]), [str(column[at]) for column in columns.values()]
        rows.append([repr(token), kind, "in the loss" if mask else "", *values])
        face = html.escape(token.replace("\n", "\\n").replace(" ", "\u00b7"))
        lines = "<br>".join([f"<b>{face}</b>" if mask else face, *values])
        css = f"{CHIP}background:{FILLS[kind]};border:2px solid {RIM if mask else GREY}"
        chips.append(f'<span style="{css};font:13px monospace;vertical-align:top">{lines}</span>')
    fills = {**FILLS, "bold, green rim: in the loss": f"white;border:2px solid {RIM}"}
    legend = [f'<span style="{CHIP}background:{css}">{kind}</span>' for kind, css in fills.items()]
    below = f" below each token: {', '.join(columns)}" if columns else ""
    rich = f"<div style='font-size:12px'>{''.join(legend)}{below}</div><div>{''.join(chips)}</div>"
    return Shown(table(["token", "kind", "", *columns], rows).text, rich=rich)


def token_lens(tokenizer, encoded, losses=()):
    """Return the tokens of one example by kind; `losses` (token_losses) adds nats where trained."""
    nats = [f"{n:.2f}" if mask else "" for n, mask in zip(losses, encoded.loss_mask)]
    return _chips(tokenizer, encoded, {"loss in nats": nats} if nats else {})


def strip(tokenizer, messages, encoded):
    """Return how messages become ids, loss mask and labels: three numbers below each token."""
    talk = table(["role", "content"], [[m["role"], m["content"]] for m in messages])
    numbers = {"id": encoded.input_ids, "loss mask": encoded.loss_mask, "label": encoded.labels}
    tokens = _chips(tokenizer, encoded, numbers)
    return Shown(f"{talk.text}\n\n{tokens.text}", rich=talk.rich + tokens.rich)


def token_losses(model, encoded):
    """Return the loss in nats of predicting each id from those before it; the first id gets 0."""
    import torch

    ids = torch.tensor([list(encoded.input_ids)], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].float()
    return [0.0, *torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()]


def embedding_rows(weight, new):
    """Return the rows `new` {label: id} of a table (vocabulary x hidden) beside its other rows.

    Axes: distance from the mean of the other rows, and from the nearest row. A plane of principal
    components would put random rows beside the mean, however far from it they are.
    """
    import torch

    rows, ids, n = weight.detach().float().cpu(), list(new.values()), len(new)
    old = rows[[i for i in range(len(rows)) if i not in ids]]
    some = torch.cat([old[:: len(old) // 500 + 1], rows[ids]])
    far = (some - old.mean(0)).norm(dim=1)
    near = torch.cdist(some, rows).kthvalue(2).values  # the nearest is the row itself

    def draw(axes):
        axes.scatter(far[:-n], near[:-n], s=4, color=GREY, alpha=0.5, label="old rows")
        axes.scatter(far[-n:], near[-n:], s=36, color=RED, label="\n".join(["new rows:", *new]))
        axes.set(xlabel="distance from the mean of the old rows", ylabel="from the nearest row")
        axes.set(xlim=(-0.05 * float(far.max()), None), ymargin=0.15)

    line = "{}: norm {:.2f}, {:.2f} from the mean, {:.2f} from the nearest row".format
    places = map(line, new, rows[ids].norm(dim=1), far[-n:], near[-n:])
    text = f"old rows: mean norm {old.norm(dim=1).mean():.2f}; {'; '.join(places)}"
    return picture(draw, 6.4, 3.4, text)


def boxes(holdings, unit="GB", limit=None):
    """Return what each GPU holds: {GPU or way: {part: size}} as stacked bars, `limit` as a line."""
    from pandas import DataFrame

    sizes = DataFrame(holdings).T.fillna(0)

    def draw(axes):
        left = 0
        for part in sizes:
            axes.barh(sizes.index, sizes[part], 0.6, left, label=part)
            left = left + sizes[part]
        if limit:
            axes.axvline(limit, color=RED, linestyle="--", label=f"{limit:g} {unit}")
        axes.invert_yaxis()
        axes.set(xlabel=unit)

    rows = [[name, *map("{:.2f}".format, [*row, sum(row)])] for name, *row in sizes.itertuples()]
    return picture(draw, 7.6, 1 + 0.36 * len(holdings), table([unit, *sizes, "sum"], rows).text)


def roofline(peak, bandwidth, points):
    """Return `points` {label: (operations per byte, per second)} under the bound of a processor.

    The bound is min(peak, bandwidth x operations per byte), in bytes per second (Williams 2009).
    """
    xs = sorted([peak / bandwidth, *[x * k for x, _ in points.values() for k in (0.25, 4)]])
    bound = {"bound": [(x, min(peak, bandwidth * x)) for x in xs]}
    for label, (x, y) in points.items():
        bound[f"{label}, {y / min(peak, bandwidth * x):.0%} of the bound"] = [(x, y)]
    return curves(bound, x="operations per byte", y="operations per second", log="xy")


DIAGRAMS = {"dpo": (
    "pair\nprompt, chosen, rejected",
    ("policy (trained)", "policy gap\nlogp chosen - logp rejected"),
    ("reference (frozen)", "reference gap\nlogp chosen - logp rejected"),
    "loss = -log sigmoid(beta x\n(policy gap - reference gap))")}


def diagram(name):
    """Return the picture of an idea; "dpo": from a pair over policy and reference to the loss."""
    def join(boxes):
        style = f"{CHIP}background:{FAINT};border:1px solid {GREY};vertical-align:middle"
        return " → ".join(f'<span style="{style}">{text}</span>' for text in boxes)

    first, *lanes, last = DIAGRAMS[name]
    rich = f"{join([first])} → <div>{'<br>'.join(map(join, lanes))}</div> → {join([last])}"
    style = "display:flex;align-items:center;gap:6px;font-size:12px"
    text = "\n".join(" -> ".join([first, *lane, last]).replace("\n", " ") for lane in lanes)
    return Shown(text, rich=f'<div style="{style}">{rich}</div>')


def before_after(prompts, before, after, wanted):
    """Return prompts answered by two models, with the wanted answer; a slider over rows if live."""
    headers, rows = ["prompt", "before", "after", "wanted"], [*zip(prompts, before, after, wanted)]

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
    """Return a conversation as HTML: the user to the right, the model to the left, a notice."""
    lines = []
    for message in messages:
        user = message["role"] == "user"
        css = f"margin:5px {0 if user else 25}% 0 {25 if user else 0}%;{BUBBLE}"
        css += f"background:rgba({'0,114,178' if user else '128,128,128'},0.2)"
        content = f"<small>{message['role']}</small><br>{html.escape(message['content'])}"
        lines.append(f'<div style="{css}">{content}</div>')
    lines.append(f'<div style="{BUBBLE}"><i>{html.escape(notice)}</i></div>')
    return f'<div role="log" aria-live="polite" style="max-width:640px">{"".join(lines)}</div>'


def chat_box(model, tokenizer, system, script=(), *, answer, **options):
    """Return a chat; its static twin is the conversation that the user turns of `script` lead to.

    `answer(model, tokenizer, messages, text, **options)` returns the messages with the user's text
    and the reply. The live conversation starts with the system message alone.
    """
    def reply(messages, text):
        return answer(model, tokenizer, messages, text, **options)

    start = messages = [{"role": "system", "content": system}] if system else []
    for text in script:
        messages = reply(messages, text)
    lines = "\n".join(f"{m['role']}: {m['content']}" for m in messages)
    return Shown(lines, rich=_bubbles(messages), widget=lambda: Chat(start, reply).view)


class Chat:
    """The widgets of a chat; `reply(messages, text)` returns messages with `text` and an answer."""

    def __init__(self, start, reply):
        import ipywidgets as widgets

        self.start, self.messages, self.reply = start, start, reply
        self.page, wide = widgets.HTML(_bubbles(start)), {"description_width": "initial"}
        self.box = widgets.Text(description="Your message", style=wide, layout={"width": "440px"},
                                placeholder="type a message, press Enter")
        send, new = (widgets.Button(description=text) for text in ("Send", "New conversation"))
        self.box.on_submit(self.submit)
        send.on_click(self.submit)
        new.on_click(self.restart)
        self.view = widgets.VBox([self.page, widgets.HBox([self.box, send, new])])
        if in_notebook():
            events, busy = sys.modules["IPython"].get_ipython().events, "a cell is running; wait"
            events.register("pre_run_cell", lambda _: self.show(busy))
            events.register("post_run_cell", lambda _: self.show())

    def show(self, notice="", messages=()):
        """Draw the conversation, more `messages` and a notice."""
        self.page.value = _bubbles([*self.messages, *messages], notice)

    def restart(self, _=None):
        """Start over with the system message alone."""
        self.messages = self.start
        self.show()

    def submit(self, _=None):
        """Show the message at once, then the reply; refuse one that is empty or too long."""
        text, notice = self.box.value.strip(), ""
        if len(text) > LONGEST:
            notice = (f"expected at most {LONGEST:,} characters, got {len(text):,}; "
                      "shorten the message")
        elif text:
            self.box.value = ""
            self.show("thinking ...", [{"role": "user", "content": text}])
            try:
                self.messages = self.reply(self.messages, text)
            except KitError as error:
                self.box.value, notice = text, str(error)
        self.show(notice)


def environment():
    """Return what a bug report needs: versions and hardware; no path, name or variable."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows = [["python", platform.python_version()], ["cores", os.cpu_count()], ["accelerator", gpu],
            ["system", f"{platform.system()} {platform.machine()}"]]
    packages = ("torch", "transformers", "accelerate", "trl", "datasets", "peft", "tokenizers")
    return table(["part", "version"], rows + [[name, metadata.version(name)] for name in packages])
