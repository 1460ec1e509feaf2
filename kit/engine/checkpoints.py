"""Folders that are whole or absent: one owner, sealed checkpoints, free space. Standard library only."""

import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
import signal
import socket
from pathlib import Path

from kit.errors import CheckpointError, SettingsError

MANIFEST = "MANIFEST.json"
MARGIN = 1 << 18  # bytes asked for beside each save, for the small files of the run


def fault(point, step):
    """Die here as by kill -9 when the environment variable KIT_FAULT is `point@step`; tests of resume set it."""
    if os.environ.get("KIT_FAULT") == f"{point}@{step}":
        os.kill(os.getpid(), signal.SIGKILL)


def shown(path) -> str:
    """The last two parts of a path: enough for a message, and nothing of this machine in a saved notebook."""
    return "/".join(Path(path).parts[-2:])


def sync(path):
    """Ask the disk to keep a file or the entries of a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_json(path, value):
    """Replace a JSON file in one step: a reader, or the next process, sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def read_json(path):
    """A JSON file as a dict; {} when it is missing or is no JSON object."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def sha256_of(path) -> str:
    """sha256 of a file's bytes, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder) -> str:
    """sha256 over (name, dtype, shape, bytes) of every tensor in the folder's *.safetensors, sorted by name.

    It does not depend on how the tensors are spread over files. A folder without safetensors raises CheckpointError.
    """
    tensors = {}
    for path in Path(folder).glob("*.safetensors"):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")  # the format: 8 bytes length, JSON header, bytes
            header = json.loads(file.read(size))
        tensors |= {name: (path, 8 + size, entry) for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise CheckpointError("a model was expected, no *.safetensors came; train it again",
                              file=shown(folder))
    digest = hashlib.sha256()
    for name, (path, start, entry) in sorted(tensors.items()):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        first, last = entry["data_offsets"]
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            with memoryview(view) as raw, raw[start + first:start + last] as tensor:
                digest.update(tensor)
    return digest.hexdigest()


def _started(pid):
    """Start time of a process in clock ticks since boot, None when it is gone or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _alive(owner):
    """Whether the process that wrote a lock may still run; a process of another host always may."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # The number of a dead process is given out again, above all in containers; its start time is not.
    return owner["started"] is None or _started(owner["pid"]) == owner["started"]


def _me():
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def lock(folder):
    """Make this process the owner of a folder; a living other owner raises SettingsError, a dead one is replaced."""
    with open(Path(folder) / "lock", "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held while we read and write: two processes cannot both replace a dead one
        file.seek(0)
        try:
            owner = json.loads(file.read())
        except ValueError:
            owner = None
        if owner and owner != _me() and _alive(owner):
            raise SettingsError(f"a free run was expected, process {owner['pid']} on {owner['host']} is in it; wait "
                                "for it, stop it, or choose another name (delete the file `lock` if that host is gone)",
                                file=shown(folder))
        file.truncate(0)
        json.dump(_me(), file)


def unlock(folder):
    """Give the folder back. The file stays, empty: removing it would race with a process that waits for it."""
    path = Path(folder) / "lock"
    if read_json(path) == _me():
        path.write_text("")


def space(folder, needed):
    """Raise CheckpointError when fewer than `needed` bytes are free, both numbers in the sentence."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(f"{needed:,} free bytes were needed to save, {free:,} are there; free some space and run "
                              "again: it goes on from the last good checkpoint", file=shown(folder))


def size_of(folder) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _files(folder):
    """{relative name: path} of everything but folders and the manifest; a link counts, so that it is noticed."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*"))
            if (path.is_symlink() or not path.is_dir()) and path.name != MANIFEST}


def seal(temporary, final, run_id, step):
    """Turn a finished temporary folder into a checkpoint: fsync, manifest with sha256 and size, fsync, rename."""
    temporary, final = Path(temporary), Path(final)
    files = {}
    for name, path in _files(temporary).items():
        sync(path)
        files[name] = {"sha256": sha256_of(path), "size": path.stat().st_size}
    fault("before manifest", step)
    write_json(temporary / MANIFEST, {"run": run_id, "step": step, "files": files})
    if final.exists():
        if verify(final, run_id) is None:  # a complete one is never touched
            shutil.rmtree(temporary)
            return
        discard(final, step)
    fault("rename", step)
    os.rename(temporary, final)
    sync(final.parent)


def verify(folder, run_id) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence; None when every file is as it was sealed."""
    manifest = read_json(Path(folder) / MANIFEST)
    files, there = manifest.get("files"), _files(folder)
    if not isinstance(files, dict):
        return f"{MANIFEST} is missing or broken"
    if manifest.get("run") != run_id:
        return "it belongs to another run"
    if step_of(folder) != manifest.get("step"):
        return f"it holds step {manifest.get('step')}"
    if set(files) != set(there):
        return f"{min(set(files) ^ set(there))} is missing or was added"
    for name, path in there.items():
        if path.is_symlink() or path.stat().st_size != files[name]["size"]:
            return f"{name} has another size"
        if sha256_of(path) != files[name]["sha256"]:
            return f"{name} has another sha256"
    return None


def step_of(folder) -> int:
    """Step of `checkpoint-N`, -1 for any other name."""
    match = re.fullmatch(r"checkpoint-(\d+)", Path(folder).name)
    return int(match[1]) if match else -1


def all_of(folder) -> list:
    """The checkpoint folders of a run, newest first."""
    return sorted((path for path in Path(folder).iterdir() if step_of(path) >= 0), key=step_of, reverse=True)


def stamp(folder):
    """Name, size and time of change of each file: as long as it stays the same, a verified folder stays verified."""
    return [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in _files(folder).items()]


def newest(folder, run_id):
    """(newest checkpoint that verifies or None, [one line for each newer one that does not])."""
    refused = []
    for path in all_of(folder):
        problem = verify(path, run_id)
        if problem is None:
            return path, refused
        refused.append(f"{path.name}: {problem}")
    return None, refused


def discard(path, step=None):
    """Remove a folder so that no moment shows half of it under its name."""
    doomed = path.with_name(f".old-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    if step is not None:
        fault("prune", step)
    shutil.rmtree(doomed)


def prune(folder, run_id, known, keep=2, step=None):
    """Keep the `keep` newest checkpoints that verify; remove the older ones, good or bad.

    known: {path: stamp} of folders verified before in this process; one whose stamp is unchanged is not read again.
    """
    good = 0
    for path in all_of(folder):
        if good >= keep:
            discard(path, step)
        elif known.get(path) == stamp(path) or verify(path, run_id) is None:
            known[path] = stamp(path)
            good += 1
