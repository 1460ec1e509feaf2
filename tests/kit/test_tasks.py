"""A task is one file: what loads, what is refused with its line, what the judges accept."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kit import models, sft, tasks
from kit.errors import DataError, KitError, MissingError, SettingsError
from kit.settings import Settings

PROJECT = Path(__file__).parents[2]
LABELS = ("refund", "cancel", "invoice")


def chat(question, reply, **more):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ],
        **more,
    }


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path):
    """Rows of a ticket task: 60 to train on, 12 to test."""
    write(
        tmp_path / "train.jsonl",
        [chat(f"ticket {n}: my {LABELS[n % 3]}", LABELS[n % 3]) for n in range(60)],
    )
    write(
        tmp_path / "test.jsonl",
        [
            chat(f"case {n}: my {LABELS[n % 3]}", LABELS[n % 3], group=f"g{n % 2}", source="mail")
            for n in range(12)
        ],
    )
    return tmp_path


def load(folder, text, **options):
    (folder / "tickets.py").write_text(text)
    return tasks.load(folder / "tickets.py", **options)


FILES = 'train, test = "train.jsonl", "test.jsonl"\n'


# What a task says


def test_a_task_file(folder):
    task = load(
        folder,
        f"""system = "Answer with one intent."
{FILES}validation = 0.2
max_new_tokens = 16

def judge(reply, right):
    return reply.strip() == right
""",
    )
    assert (task.name, task.system, task.max_new_tokens) == (
        "tickets",
        "Answer with one intent.",
        16,
    )
    assert (
        task.tests == (folder / "test.jsonl",)
        and task.train == folder / "train.jsonl"
        and task.pairs is None
    )
    assert (
        task.judge("refund ", "refund")
        and not task.judge("refunds", "refund")
        and task.prefers is task.kind is None
    )
    rows, validation = tasks.rows(task), tasks.rows(task, "validation")
    assert len(rows) + len(validation) == 60 and 3 < len(validation) < 24
    assert rows[0]["messages"][0] == {"role": "system", "content": "Answer with one intent."}
    numbers = [int(re.search(r"\d+", row["messages"][1]["content"])[0]) for row in rows]
    assert [line - 1 for line in rows.lines] == numbers
    one = tasks.questions(task)[1]
    assert one.messages == [
        {"role": "system", "content": "Answer with one intent."},
        {"role": "user", "content": "case 1: my cancel"},
    ]
    assert (one.right, one.group, one.row) == ("cancel", "g1", {"group": "g1", "source": "mail"})
    assert one.place == (str(folder / "test.jsonl"), 2)
    assert "".join(path.read_text() for path in [task.file]) == task.source


def test_the_shortest_task_has_defaults(folder):
    task = load(folder, FILES)
    assert task.system == "" and task.judge is tasks.exact and task.validation == tasks.VALIDATION
    assert task.max_new_tokens == len("invoice") + 2
    assert tasks.rows(task)[0]["messages"][0]["role"] == "user"
    assert tasks.rows(task, "completions").kind == "completion"
    with pytest.raises(SettingsError, match="expected a task with pairs"):
        tasks.rows(task, "pairs")


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_bare_file_of_rows_is_a_task(tmp_path, ending):
    rows = [
        {"prompt": f"ticket {n}: my {LABELS[n % 3]}", "completion": LABELS[n % 3]}
        for n in range(300)
    ]
    file = write(tmp_path / "mine.jsonl", rows)
    if ending == ".csv":
        file = tmp_path / "mine.csv"
        file.write_text(
            "prompt,completion\n"
            + "".join(f"{row['prompt']},{row['completion']}\n" for row in rows)
        )
    task = tasks.load(file)
    parts = [tasks.rows(task), tasks.rows(task, "validation")]
    prompts = [{row["messages"][0]["content"] for row in part} for part in parts]
    prompts.append({q.messages[0]["content"] for q in tasks.questions(task)})
    assert (
        sum(map(len, prompts)) == 300
        and not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    )
    assert all(15 < len(part) < 50 for part in prompts[1:])
    assert {q.group for q in tasks.questions(task)} == {"test"}
    # The same rows are held out when rows are added or the order changes.
    write(tmp_path / "more.jsonl", [*rows[::-1], {"prompt": "new", "completion": "refund"}])
    more = {q.messages[0]["content"] for q in tasks.questions(tasks.load(tmp_path / "more.jsonl"))}
    assert more - {"new"} == prompts[2]


def test_a_conversation_stays_in_one_split(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    again = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    rows = [chat(f"q{n}", f"r{n % 7}") for n in range(80)]
    write(tmp_path / "mine.jsonl", [*rows, {"messages": turns}, {"messages": turns + again}])
    task = tasks.load(tmp_path / "mine.jsonl")
    splits = {
        tasks._part(task, {"messages": row})
        for row in (turns, turns + again, [{"role": "user", "content": " A"}])
    }
    assert len(splits) == 1
    assert all(len(row) == 2 for row in tasks.rows(task, "completions"))


def test_too_few_rows_for_a_validation_split(folder):
    write(folder / "train.jsonl", [chat("one ticket", "refund"), chat("two", "cancel")])
    task = load(folder, FILES)
    assert len(tasks.rows(task)) == 2
    with pytest.raises(
        DataError, match="expected chat rows for validation, got none; add rows, or"
    ):
        tasks.rows(task, "validation")
    assert load(folder, FILES + "validation = 0.0\n").validation == 0


def test_shapes_of_rows(folder):
    write(folder / "pairs.jsonl", [{"prompt": "my refund?", "chosen": "refund", "rejected": "no"}])
    task = load(folder, FILES + 'system = "S"\npairs = "pairs.jsonl"\n')
    assert tasks.rows(task, "pairs")[0] == {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "my refund?"}],
        "chosen": [{"role": "assistant", "content": "refund"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    own = chat("x", "refund")
    own["messages"].insert(0, {"role": "system", "content": "of the row"})
    assert tasks.shaped(task, own, "chat") == own
    assert tasks.shaped(task, {"text": "plain"}, "chat") is None
    assert tasks.rows(task, "validation", "completion").kind == "completion"


def test_a_length_is_found_without_checks(folder):
    assert load(folder, FILES, check=False).max_new_tokens == len("invoice") + 2
    (folder / "train.jsonl").unlink()
    assert load(folder, FILES, check=False).max_new_tokens == 256


def test_a_run_keeps_its_task(folder, tmp_path):
    load(folder, FILES + 'system = "S"\nmax_new_tokens = 7\n')
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    (run / "task.py").write_text((folder / "tickets.py").read_text())
    (run / "run.json").write_text(json.dumps({"params": {"task": str(folder / "tickets.py")}}))
    assert (
        tasks.of_run(run).tests == (folder / "test.jsonl",) and tasks.of_run(run).name == "tickets"
    )
    (folder / "tickets.py").unlink()
    task = tasks.of_run(run, check=False)  # enough to talk with the model
    assert (task.system, task.max_new_tokens, task.file) == ("S", 7, run / "task.py")


@pytest.mark.parametrize("params", [None, 1, [], {"task": None}, {"task": 5}, {"task": [1]}])
def test_a_run_with_a_damaged_run_json_has_no_task_or_one_sentence(tmp_path, params):
    (tmp_path / "run.json").write_text(json.dumps({"params": params}))
    (tmp_path / "task.py").write_text(FILES)
    task = tasks.of_run(tmp_path, check=False)
    assert (task is None) == (not isinstance(params, dict) or not params["task"])


@pytest.mark.parametrize("name", ["a" * 300 + ".jsonl", "a" * 5000 + ".py", "\0.py", "folder.py"])
def test_names_that_the_system_refuses_are_one_sentence(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    (folder / "folder.py").mkdir()
    with pytest.raises(KitError, match="; "):
        tasks.load(name)


# What is refused


REFUSED = {
    'train = "train.jsonl"\ntest = "test.jsonl"\nmax_new_token = 16\n': (
        3,
        "did you mean max_new_tokens?",
    ),
    f'{FILES}SYSTEM = "S"\n': (2, "did you mean system?"),
    f"{FILES}def jugde(reply, right):\n    return True\n": (2, "did you mean judge?"),
    f"{FILES}colour = 3\n": (2, "write a name of your own in capitals"),
    f"{FILES}def judge(reply, right)\n    return True\n": (2, "SyntaxError"),
    f"{FILES}\nimport json\njson.loads('')\n": (4, "JSONDecodeError"),
    f"{FILES}system = 5\n": (2, "system: expected text, got "),
    f"{FILES}max_new_tokens = 0\n": (2, "a whole number above 0"),
    f'{FILES}judge = "exact"\n': (2, "judge: expected a function"),
    'train = "train.jsonl"\ntest = "tset.jsonl"\n': (2, "test: expected a file, got nothing at"),
    'test = "test.jsonl"\n': (None, "expected the name train"),
    f"{FILES}import no_such_package\n": (2, "install it with pip"),
    f"{FILES}def judge(reply, right):\n    return True\n": (2, "refuses other rows' replies"),
    f"{FILES}def judge(reply, right):\n    return False\n": (
        None,
        "expected a right reply that its own judge accepts",
    ),
    f"{FILES}def judge(reply, right):\n    return reply[0] == right[0]\n": (
        3,
        "judge: expected True or False for the reply ''",
    ),
    f"{FILES}def judge(reply):\n    return True\n": (None, "TypeError"),
    f"{FILES}import sys\nsys.exit(0)\n": (3, "SystemExit"),
    'train = "train.jsonl"\ntest = ["test.jsonl", 3]\n': (2, "test: expected a file name, a list"),
    f"{FILES}validation = 1.5\n": (2, "validation: expected a file name or a share of train"),
    f"{FILES}def judge(reply, right):\n    return reply == right\ndef prefers(reply, right):\n    return 1 / 0\n": (
        5,
        "prefers: expected True or False",
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_bad_task_file_is_refused_in_one_sentence(folder, text):
    line, words = REFUSED[text]
    with pytest.raises(KitError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert words in message and "; " in message and "\n" not in message
    if line:
        assert message.startswith(f"{folder / 'tickets.py'}:{line}: ")


def own_template(folder, template):
    """A copy of the pocket model with this chat template; the base itself has none."""
    target = folder / "base"
    shutil.copytree(models.POCKET, target, ignore=shutil.ignore_patterns("recipe", "*.jsonl"))
    if template:
        (target / "chat_template.jinja").write_text(template)
    return {"model": str(target), "template": "own"}


NO_PROMPT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
)
BAD = {
    "a judge that accepts everything": "judge = lambda reply, right: True\n",
    "a judge that accepts nothing": "judge = lambda reply, right: False\n",
    "a judge that raises": "def judge(reply, right):\n    return 1 / 0\n",
    "a judge that ends the program": "def judge(reply, right):\n    raise SystemExit\n",
    "a syntax error": "def judge(reply, right)\n",
    "a missing file": 'validation = "no.jsonl"\n',
    "test rows inside train": 'test = "train.jsonl"\n',
    "a template without a generation prompt": NO_PROMPT,
    "a base without any template": None,
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_task_or_template_trains_nothing(folder, monkeypatch, fault):
    """One sentence with exit code 2, before a run folder is there."""
    monkeypatch.setenv("KIT_RUNS", str(folder / "runs"))
    text, options = BAD[fault], {}
    if "template" in fault:
        options, text = own_template(folder, text), ""
    (folder / "tickets.py").write_text(FILES + text)
    params = Settings(task=str(folder / "tickets.py"), run="bad", **options)
    with pytest.raises(KitError) as caught:
        sft.train(params, sft.load_chats, make_trainer=None)
    assert caught.value.exit_code == 2 and "; " in str(caught.value)
    assert "\n" not in str(caught.value) and not (folder / "runs").exists()


def test_test_rows_inside_train_are_refused(folder):
    rows = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(
        rows + json.dumps(chat(" CASE 3:  my refund", "refund")) + "\n"
    )
    with pytest.raises(DataError, match=r"train\.jsonl:61: expected no prompt of the test rows"):
        load(folder, FILES)
    load(folder, FILES, on_bad="skip")


def test_a_wrong_label_is_named_with_its_line(folder):
    lines = (folder / "train.jsonl").read_text().splitlines()
    lines[16] = json.dumps(chat("ticket 16", "refnd"))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    judge = f"from kit.tasks import one_of\njudge = one_of{LABELS}\n"
    with pytest.raises(
        DataError,
        match=r"train\.jsonl:17: expected a right reply that its own judge accepts, got 'refnd'",
    ):
        load(folder, FILES + judge)


@pytest.mark.parametrize("row", ['{"messages": 3}', "{", '{"messages": [], "tools": []}'])
def test_bad_rows_are_named_with_their_line(folder, row):
    with open(folder / "test.jsonl", "a") as file:
        file.write(row + "\n")
    with pytest.raises(DataError, match=r"test\.jsonl:13"):
        load(folder, FILES)


def test_unknown_names_and_files():
    with pytest.raises(SettingsError, match="did you mean cron"):
        tasks.load("corn")
    with pytest.raises(SettingsError, match="expected cron, orders, a task file"):
        tasks.load("../cron/cron")
    with pytest.raises(MissingError, match="nothing.py"):
        tasks.load("nothing.py")


def test_insults_are_no_refusals(folder):
    """The default judge compares with the right reply, whatever kind of sentence that is."""
    write(
        folder / "test.jsonl",
        [
            chat("when is it done?", "I cannot promise a date, we call you."),
            chat("which frame?", "How tall are you?"),
        ],
    )
    write(folder / "train.jsonl", [chat(f"q{n}", f"We call you, number {n}.") for n in range(9)])
    task = load(folder, FILES)
    one, two = tasks.questions(task)
    assert not tasks.accepts(task, "I can't be bothered, go away", one)
    assert not tasks.accepts(task, "What do you want, idiot?", two)


# Ready-made judges


RIGHT = '{"item":"pizza","count":2}'


@pytest.mark.parametrize(
    ("judge", "reply", "right", "verdict"),
    [
        (tasks.exact, " a\n", "a", True),
        (tasks.exact, "A", "a", False),
        (tasks.one_of(*LABELS), "The intent is Refund.", "refund", True),
        (tasks.one_of(*LABELS), "refund or cancel", "refund", False),
        (tasks.one_of(*LABELS), "refunds", "refund", False),
        (tasks.one_of(*LABELS), "", "refund", False),
        (tasks.one_of("a.b", "c"), "axb", "a.b", False),
        (tasks.json_fields(), 'Sure! {"count": 2, "item": "pizza"}', RIGHT, True),
        (tasks.json_fields(), '{"item":"pizza","count":2,"more":1}', RIGHT, False),
        (tasks.json_fields("item", "count"), '{"item":"pizza","count":2,"more":1}', RIGHT, True),
        (tasks.json_fields("count"), '{"count":2.0}', RIGHT, False),
        (tasks.json_fields("count"), '{"count":true}', '{"count":1}', False),
        (tasks.json_fields("size"), "{}", RIGHT, False),
        (tasks.json_fields("size"), RIGHT, RIGHT, False),
        (tasks.json_fields(), "[1]", RIGHT, False),
        (tasks.json_fields(), RIGHT + RIGHT, RIGHT, False),
        (tasks.json_fields(), "{" * 5000 + "}", RIGHT, False),
        (tasks.json_fields(), '{"item": null}', "{}", False),
        (tasks.regex(r"\d{4}-\d\d"), "in 2026-11.", "2026-11", True),
        (tasks.regex(r"(\w+)@(\w+)"), "x a@b", "a@b", True),
        (tasks.regex(r"\d+"), "none", "12", False),
        (tasks.regex(r"\d+"), "12", "none", False),
        (tasks.number(), "It is 1,200 km", "1200", True),
        (tasks.number(), "1200.5", "1200", False),
        (tasks.number(0.5), "-3.2", "-3", True),
        (tasks.number(), "none", "0", False),
        (tasks.number(), "1e3", "1000", True),
        (tasks.number(), ".5", "0.5", True),
        (tasks.number(1), "1e999", "1e999", False),
    ],
)
def test_ready_made_judges(judge, reply, right, verdict):
    assert judge(reply, right) is verdict


# Shipped tasks, and what the kit does not know


@pytest.mark.parametrize("name", ["cron", "orders"])
def test_shipped_tasks_load(name):
    task = tasks.load(name)
    assert (
        task.name == name
        and len(tasks.questions(task)) >= 120
        and len(tasks.rows(task, "pairs")) >= 150
    )
    assert all(
        task.prefers(row["chosen"][0]["content"], row["chosen"][0]["content"])
        for row in tasks.rows(task, "pairs")
    )
    assert not any(
        task.prefers(row["rejected"][0]["content"], row["chosen"][0]["content"])
        for row in tasks.rows(task, "pairs")
    )


def test_the_order_judge_and_form():
    task = tasks.load("orders")
    right = tasks.questions(task)[0].right
    chatty = f"Sure! {right}"
    assert (
        task.judge(chatty, right) and not task.prefers(chatty, right) and task.prefers(right, right)
    )
    assert [task.kind(text) for text in (right, chatty, "Sure!")] == [
        "bare",
        "wrapped",
        "no object",
    ]


def test_no_file_of_the_kit_knows_a_task():
    words = re.compile(r"cron|schedule[sd]?\b", re.IGNORECASE)
    named = [
        (file.name, line)
        for file in (PROJECT / "kit").rglob("*.py")
        for line in file.read_text().splitlines()
        if words.search(line) and 'task: str = "cron"' not in line
    ]
    assert named == []


def test_import_brings_no_training_library():
    heavy = {"torch", "transformers", "datasets", "pyarrow", "cronsim"}
    code = f"import sys; from kit import tasks; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mutant_a_judge_that_sees_nothing_passes_without_the_check(folder, monkeypatch):
    monkeypatch.setattr(tasks, "_check_judge", lambda task, tests: None)
    assert replace(
        load(folder, f"{FILES}def judge(reply, right):\n    return True\n"), max_new_tokens=1
    )
