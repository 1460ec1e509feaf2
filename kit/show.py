"""What a lesson shows: a widget in a live notebook, and a static twin (PNG, HTML or text) in a saved one."""

import html
import io
import platform
from importlib import metadata

from kit import chat

LESSONS = ("start here", "tokenizer", "completion SFT", "chat SFT", "DPO", "evaluate", "many GPUs", "speed")
COLOURS = {"trained": "#b7e4c7", "ignored": "#e9ecef", "control": "#a9c9f5"}


class Shown:
    """A figure with a static twin and, where a kernel is live, a widget; Jupyter picks the richest it can draw."""

    def __init__(self, text, *, rich=None, png=None, widget=None):
        self.text, self.rich, self.png, self.widget = text, rich, png, widget

    def _repr_mimebundle_(self, include=None, exclude=None):
        bundle = {"text/plain": self.text}
        if self.rich:
            bundle["text/html"] = self.rich
        if self.png:
            bundle["image/png"] = self.png
        if self.widget is not None:
            live = self.widget()
            bundle |= {k: v for k, v in live._repr_mimebundle_().items() if k.startswith("application/vnd.jupyter")}
        return bundle

    def __str__(self):
        return self.text


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
    return Shown(text, png=_png(draw, 9, 0.9))


def _box(x, y, width, height, **style):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", **style)


def curves(series, *, y="loss (nats a token)", x="step", smooth=0.0):
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
    return Shown(f"{y} by {x}: {ends}", png=_png(draw, 6, 2.6))


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
    return Shown("\n".join(lines), png=_png(*_lens(rows)))


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
            axes.add_patch(_box(x, -y * 2.4, width - 0.3, 1.2, facecolor=COLOURS[kind],
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
