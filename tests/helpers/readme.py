"""Read the command lines of a Markdown file and run them as printed, on few steps.

KIT_MAX_STEPS ends a training after that many steps, KIT_RUNS keeps its runs away from yours, and
PATH finds the programs of this environment, as after `. .venv/bin/activate`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = {"", "bash", "sh", "shell", "console"}
PROGRAMS = {
    "make",
    "python",
    "python3",
    "accelerate",
    "kit",
    "pip",
    "git",
    "jupyter",
    "cd",
    "source",
    ".",
}


class Done(NamedTuple):
    code: int
    output: str  # stdout and stderr


def blocks(markdown) -> list[str]:
    """Return the text of each fenced shell block."""
    return [block for language, block in FENCE.findall(markdown) if language in SHELLS]


def commands(markdown) -> list[str]:
    """Return the command lines of all fenced shell blocks, without prompts and comments."""
    lines = []
    for block in blocks(markdown):
        lines += re.sub(r"\\\n *", "", block).splitlines()
    lines = [re.sub(r"\s{2,}#.*", "", line).removeprefix("$ ").strip() for line in lines]
    return [line for line in lines if program(line) in PROGRAMS]


def program(line) -> str:
    """Return the program of a command without its folder and VARIABLE=value assignments."""
    words = line.split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words[0].rpartition("/")[2] if words else ""


def fresh_shell() -> dict:
    """Return the environment without what `make test` adds: an inner make would say so."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }


def short_environment(runs, *, steps=2, **variables) -> dict:
    """Return the environment of an activated shell in which trainings end after a few steps."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return fresh_shell() | {
        "PATH": path,
        "KIT_MAX_STEPS": str(steps),
        "KIT_RUNS": str(runs),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PROJECT),
        "WANDB_MODE": "offline",
        **variables,
    }


def run(line, environment, *, folder=PROJECT, seconds=600, text="") -> Done:
    """Run a command line in bash, as a reader pastes it; one that does not end gets code 124.

    text: what the reader types into the program.
    """
    try:
        done = subprocess.run(
            [shutil.which("bash"), "-c", line],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            input=text,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        return Done(124, (error.stdout or b"").decode(errors="replace"))
    return Done(done.returncode, done.stdout)


def clone(parent) -> Path:
    """Make a folder with links to what git tracks at the top: a fresh clone without .venv."""
    folder = parent / "clone"
    folder.mkdir()
    command = ["git", "ls-tree", "--name-only", "HEAD"]
    names = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        if (PROJECT / name).exists():
            (folder / name).symlink_to(PROJECT / name)
    return folder


def link_environment(folder) -> dict:
    """Make .venv as `make` leaves it, from this environment; return the variables that it needs."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for part in [*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()]:
        if part.name not in ("bin", "ready"):
            target = programs if part.parent.name == "bin" else programs.parent
            (target / part.name).symlink_to(part)
    if not (programs / "kit").exists():  # this checkout is not installed
        (programs / "kit").write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m kit "$@"\n')
        (programs / "kit").chmod(0o755)
    (programs.parent / "ready").touch()
    return {"PYTHONPATH": str(PROJECT)}
