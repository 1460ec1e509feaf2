"""Figures: each has a text, a static twin, and a widget only for a live notebook; a bug report holds no secret."""

import io
import os
from pathlib import Path

import matplotlib.image
import pytest
from bases import CHATS, base

from kit import chat, preflight, schedules, scoring, show

PNG = b"\x89PNG\r\n\x1a\n"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def pair():
    return base()


def lens(pair, losses=False):
    model, tokenizer = pair
    encoded = chat.encode(tokenizer, CHATS[1])
    return show.token_lens(tokenizer, encoded, show.token_losses(model, encoded) if losses else None)


STATIC = {"text/html": lambda pair: show.table(["a", "b"], [["x", 1]]),
          "checks": lambda pair: show.checks([preflight.Check("one", False, "0 rows")]),
          "scoreboard": lambda pair: show.scoreboard({"base": {"x": scoring.score([1, 0]).as_dict()}, "sft": {}}),
          "environment": lambda pair: show.environment()}
DRAWN = {"map": lambda pair: show.course_map(2), "lens": lens, "lens with losses": lambda pair: lens(pair, True),
         "curves": lambda pair: show.curves({"a": [(1, 3.0), (2, 2.0)], "b": [(1, 1.0), (2, 1.5)]}, smooth=0.5)}
LIVE = {"before and after": lambda pair: show.before_after(list("abcdefgh"), *[list("abcdefgh")] * 3),
        "chat box": lambda pair: show.chat_box(*pair, schedules.SYSTEM, ["every day"])}


@pytest.mark.parametrize("name", [*STATIC, *LIVE])
def test_html_twin(pair, name):
    made = (STATIC | LIVE)[name](pair)
    bundle = made._repr_mimebundle_()
    assert bundle["text/plain"] == str(made) != ""
    assert bundle["text/html"].startswith("<table>") and bundle["text/html"].count("<tr>") >= 2
    assert (WIDGET in bundle) == (name in LIVE)


@pytest.mark.parametrize("name", DRAWN)
def test_png_twin(pair, name):
    made = DRAWN[name](pair)
    bundle = made._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"} and bundle["text/plain"] == str(made) != ""
    assert bundle["image/png"][:8] == PNG
    pixels = matplotlib.image.imread(io.BytesIO(bundle["image/png"]))
    assert pixels.shape[1] > 400 and 0.01 < (pixels[..., :3] < 0.95).any(-1).mean() < 0.95  # drawn on, not filled


def test_no_widget_is_made_before_jupyter_asks():
    calls = []
    made = show.Shown("text", widget=lambda: calls.append(1))
    assert str(made) == "text" and calls == []


def test_table_escapes_and_aligns():
    made = show.table(["token", "n"], [["<end>", 1], ["a & b", 22]])
    assert "&lt;end&gt;" in made.rich and "a &amp; b" in made.rich and "<end>" not in made.rich
    assert made.text.splitlines() == ["token  n", "--------", "<end>  1", "a & b  22"]


def test_checks_and_scores_are_told():
    assert "FAILED" in STATIC["checks"](None).text
    text = STATIC["scoreboard"](None).text
    assert "x (n=2)" in text and "50.0% [9.5%, 90.5%]" in text and text.splitlines()[-1].split() == ["sft", "-"]


def test_average_starts_at_the_first_value():
    for decay in (0.1, 0.5, 0.98):
        assert show._average([3.0, 1.0], decay)[0] == pytest.approx(3.0, abs=1e-12)
        assert show._average([2.0] * 50, decay) == pytest.approx([2.0] * 50, abs=1e-12)
    assert show._average([3.0, 1.0], 0.5)[1] == pytest.approx((0.5 * 3 + 1) / 1.5, abs=1e-12)


def test_curves_tell_first_and_last():
    assert DRAWN["curves"](None).text == "loss (nats a token) by step: a: 3.000 -> 2.000, b: 1.000 -> 1.500"


def test_lens_tells_each_token(pair):
    model, tokenizer = pair
    encoded = chat.encode(tokenizer, CHATS[1])
    lines = lens(pair, losses=True).text.splitlines()
    assert len(lines) == len(encoded.input_ids)
    assert lines[0].split() == ["'<user>'", "control"]
    assert sum(" trained" in line for line in lines) == sum(encoded.loss_mask)
    losses = show.token_losses(model, encoded)
    assert losses[0] == 0.0 and lines[-1].split()[-1] == f"{losses[-1]:.3f}"


def test_chat_box_holds_the_whole_conversation(pair):
    text = show.chat_box(*pair, schedules.SYSTEM, ["every day", "at one"]).text
    first = [word for line in text.splitlines() for word in line.split()[:1] if word in chat.ROLES]
    assert first == ["system", "user", "assistant", "user", "assistant"]


def test_environment_holds_no_path_and_no_secret(monkeypatch):
    for name in ("KIT_CANARY", "USER", "LOGNAME", "HOME", "HOSTNAME", "KIT_CACHE", "HF_TOKEN"):
        monkeypatch.setenv(name, f"canary-{name}")
    made = show.environment()
    told = made.text + made.rich
    assert "canary" not in told and str(Path.cwd()) not in told and os.uname().nodename not in told
    assert "/" not in made.text and "\\" not in made.text
    assert "torch" in told and "transformers" in told
