"""The folder of a run on disk: its place, its lock, checkpoints with checksums, free disk space.

A checkpoint counts only with a valid MANIFEST.json, which is written after all its other files are
on the disk. A folder without a manifest is the rest of a save that did not finish.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from kit.errors import CheckpointError, KitError, MissingError, SettingsError

MANIFEST = "MANIFEST.json"
KEEP = 2  # newest checkpoints that stay on the disk
MARGIN = 1 << 18  # bytes that must stay free beside each save, for the small files of the run


def runs_root() -> Path:
    """Return the folder of all runs: the environment variable KIT_RUNS, or runs/ of the project."""
    return Path(os.environ.get("KIT_RUNS") or Path(__file__).parents[2] / "runs").absolute()


def run_folder(name) -> Path:
    """Return the folder of a run name; raise SettingsError for a name that could leave it."""
    folder = runs_root() / str(name).replace("\0", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(name)) or folder.is_symlink():
        raise SettingsError("expected a run name of 1 to 100 letters, digits, `.`, `_` or `-`, got "
                            f"{name!r}; choose another name")
    return folder


def find_run(name) -> Path:
    """Return the folder of an existing run; raise MissingError that lists the runs that exist."""
    folder = run_folder(name)
    if not (folder / "run.json").is_file():
        names = ", ".join(sorted(path.parent.name for path in runs_root().glob("*/run.json")))
        advice = f"choose one of {names}" if names else "there are no runs yet, train one first"
        raise MissingError(f"expected the name of a run, got {name!r}; {advice}")
    return folder


def short(path) -> str:
    """Return the last two parts of a path: a saved notebook then shows nothing of this machine."""
    return "/".join(Path(path).parts[-2:])


def sync(path):
    """Ask the disk to keep a file, or the entries of a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_json(path, value):
    """Replace a JSON file in one step: a reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def read_json(path) -> dict:
    """Return a JSON file as a dict; {} when the file is missing or holds no JSON object."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def sha256_of(path) -> str:
    """Return the sha256 of a file's bytes, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder) -> str:
    """Return the sha256 over (name, dtype, shape, bytes) of all tensors of a folder, by name.

    It does not depend on how the tensors are spread over files. Raises CheckpointError when the
    folder holds no safetensors, or a damaged file of them.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    digest, place = hashlib.sha256(), {}
    with contextlib.ExitStack() as stack:
        try:
            for path in Path(folder).glob("*.safetensors"):
                file = stack.enter_context(safe_open(path, "pt"))
                place |= dict.fromkeys(file.keys(), file)
        except SafetensorError as error:
            raise CheckpointError(f"expected whole safetensors, got a damaged file ({error}); "
                                  "train or copy this model again", file=short(path)) from None
        for name in sorted(place):
            part = place[name].get_slice(name)
            digest.update(json.dumps([name, part.get_dtype(), part.get_shape()]).encode())
            digest.update(place[name].get_tensor(name).flatten().view(torch.uint8).numpy())
    if not place:
        raise CheckpointError("expected a model, got no *.safetensors; train or copy it again",
                              file=short(folder))
    return digest.hexdigest()


def lock(folder):
    """Return the lock of a folder, held until `release()` or the end of the process.

    The operating system frees it when a process dies. Raises SettingsError while another process
    holds it.
    """
    from filelock import FileLock, Timeout

    one = FileLock(Path(folder) / "lock", timeout=0, thread_local=False, is_singleton=True)
    try:
        if not one.is_locked:
            one.acquire()
    except Timeout:
        raise SettingsError("expected a free run, got one that another process trains; stop that "
                            "process or choose another `run`", file=short(folder)) from None
    return one


def space(folder, needed):
    """Raise CheckpointError when the disk has fewer than `needed` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full(folder, needed, f"{free:,}")


def _full(folder, needed, got):
    return CheckpointError(f"expected {needed:,} free bytes on the disk for a save, got {got}; "
                           "free some space and run again, the run goes on from its last "
                           "checkpoint", file=short(folder))


@contextlib.contextmanager
def full_disk(folder, needed):
    """Turn the error of a write that found no space into a sentence."""
    try:
        yield
    except Exception as error:  # OSError, RuntimeError or SafetensorError, by what was written
        is_full = "No space left" in str(error) or shutil.disk_usage(folder).free < MARGIN
        if isinstance(error, KitError) or not is_full:
            raise
        raise _full(folder, needed, "a full disk") from error


def contents(folder, run_id) -> dict:
    """Return what a manifest holds: run, step, and the sha256 of each file ("link" of a link)."""
    files = {}
    for path in Path(folder).rglob("*"):
        if path.name != MANIFEST and (path.is_symlink() or path.is_file()):
            name = path.relative_to(folder).as_posix()
            files[name] = "link" if path.is_symlink() else sha256_of(path)
    return {"run": run_id, "step": step_of(folder), **files}


def seal(folder, run_id):
    """Make a checkpoint of complete files: bring them to the disk, then write the manifest."""
    for path in Path(folder).rglob("*"):
        sync(path)
    write_json(Path(folder) / MANIFEST, contents(folder, run_id))


def problem(folder, run_id) -> str | None:
    """Return what is wrong with a checkpoint, None when everything is as it was sealed."""
    sealed, now = read_json(Path(folder) / MANIFEST), contents(folder, run_id)
    if not sealed:
        return f"{MANIFEST} is damaged"
    changed = [name for name in sorted({*sealed, *now}) if sealed.get(name) != now.get(name)]
    return f"{changed[0]} has changed" if changed else None


def step_of(folder) -> int:
    """Return the step of `checkpoint-N`, -1 for any other name."""
    match = re.fullmatch(r"checkpoint-(\d+)", Path(folder).name)
    return int(match[1]) if match else -1


def all_of(folder) -> list:
    """Return the checkpoint folders of a run, newest first."""
    paths = [path for path in Path(folder).iterdir() if not path.is_symlink()]
    return sorted([path for path in paths if step_of(path) >= 0], key=step_of, reverse=True)


def newest(folder, run_id):
    """Return (newest whole checkpoint or None, a line per newer folder, which is removed).

    Raises CheckpointError when saves have finished and none of them is whole.
    """
    lines, damaged = [], []
    for path in all_of(folder):
        if not (path / MANIFEST).exists():
            lines.append(f"{path.name}: {MANIFEST} is missing, its save did not finish")
            discard(path)
    for path in all_of(folder):
        reason = problem(path, run_id)
        if not reason:
            for other in damaged:
                discard(other)
            return path, lines
        damaged.append(path)
        lines.append(f"{path.name}: {reason}")
    if damaged:
        raise CheckpointError(f"expected a whole checkpoint, got none ({'; '.join(lines)}); delete "
                              f"the folders `{short(folder)}/checkpoint-*` to start from step 0",
                              file=short(folder))
    return None, lines


def discard(checkpoint):
    """Remove a checkpoint, its manifest first: what a kill leaves of it does not count."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def prune(folder, best=None):
    """Remove all checkpoints but the newest ones and the one of the step `best`."""
    for path in all_of(folder)[KEEP:]:
        if step_of(path) != best:
            discard(path)
