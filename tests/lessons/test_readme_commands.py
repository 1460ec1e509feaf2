"""Tests of the reader of README commands, with which test_readme.py runs them."""

import readme

TEXT = """# Title

```bash
make course     # 20 minutes
$ python scripts/a.py --epochs 2 \\
    --start ""
ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 accelerate launch a.py  # two processes
done in 3 s
```

```python
make = 1
```

```
accelerate launch --num_processes=$NUM_GPUS a.py
kit chat "#1"
.venv/bin/pip install x
./unknown
```
"""


def test_commands_are_read_as_a_reader_pastes_them():
    assert readme.commands(TEXT) == [
        "make course",
        'python scripts/a.py --epochs 2 --start ""',
        "ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 accelerate launch a.py",
        "accelerate launch --num_processes=$NUM_GPUS a.py",
        'kit chat "#1"',
        ".venv/bin/pip install x",
    ]


def test_a_command_runs_in_an_activated_shell(tmp_path):
    environment = readme.short_environment(tmp_path, steps=3, NUM_GPUS="2")
    line = "python -c \"import os, kit; print(os.environ['KIT_MAX_STEPS'], $NUM_GPUS)\"; exit 3"
    assert readme.run(line, environment) == (3, "3 2\n")
    assert readme.run("cd scripts && pwd", environment).output.endswith("/scripts\n")


def test_a_command_reads_what_is_typed(tmp_path):
    environment = readme.short_environment(tmp_path)
    assert readme.run("read word; echo got $word", environment, text="it\n") == (0, "got it\n")


def test_a_command_that_does_not_end_is_ended(tmp_path):
    done = readme.run("echo first; sleep 60", readme.short_environment(tmp_path), seconds=1)
    assert done == (124, "first\n")
