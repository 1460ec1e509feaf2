"""How training scales over the GPUs of one host: equal losses, tokens/s, memory of an 8B step,
failures.

    python benchmarks/scaling.py --out scaling.json [--minutes 9] [--only losses,kill,kernel,speed,memory] [--gpus 1,8]
    python benchmarks/scaling.py --out toy.json --toy          the same jobs with two CPU processes and toy shapes

Each job is a process of its own with a limit; its results are written to --out as they come. A
second call with the same --out does what is missing or failed, so the jobs may be spread over
several calls. Jobs that time nothing run at once, and so do the two shapes on one GPU each. The
table is printed last.
"""

import argparse
import contextlib
import datetime
import gc
import json
import math
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from kit import launch, runs
from kit.errors import KitError

PROJECT = Path(__file__).parents[1]
SHAPES = {  # hidden, layers, inner, heads, kv heads, tied, vocabulary
    "0.6B": (1024, 28, 3072, 16, 8, True, 151_936),
    "1.7B": (2048, 28, 6144, 16, 8, True, 151_936),
    "8B": (4096, 36, 12288, 32, 8, False, 151_936),
    "toy": (64, 2, 128, 4, 2, True, 512),
    "toy2": (64, 3, 128, 4, 2, False, 512),
}
# Rows at once in one process, micro batches a step: fewer ids do not fill an H100, whose CPU then
# decides the speed.
MICRO = {"0.6B": (80, 1), "1.7B": (32, 2)}
BATCHES = 16  # steps of an epoch: the first warms up and meets all lengths, the second is timed
MEDIAN, SPREAD, LONGEST, MEMORY_IDS = (
    270,
    0.9,
    1024,
    2048,
)  # ids of a row, log-normal; ids of a row of "memory"
MEMORY_STEPS = 4
ROWS = {"sft_chat": 9000, "dpo": 1500}  # in the course's data
LOSS_STEPS, KILL_AFTER, KILL_STEPS = 8, 5, 40
KINDS = ("losses", "kill", "kernel", "speed", "memory")
GOALS = {"ddp": 0.92, "fsdp2": 0.85}  # efficiency at 8 GPUs
SENTENCE = 400  # characters of what a killed run tells


def jobs(options):
    """[kind, seconds it may take, arguments, the one GPU it sees or None, its wave]; jobs of a wave
    run at once."""
    most, toy = options.gpus[-1], options.toy
    shapes = ["toy", "toy2"] if toy else ["0.6B", "1.7B"]
    listed = []
    for script in ("sft_chat", "dpo"):
        # One process in micro batches of N's size differs from N by the sums alone; in one batch,
        # also by its kernels.
        listed += [("losses", 200, [script, "ddp", 1, 32], None, "losses")]
        listed += [
            ("losses", 200, [script, "ddp", 1, 32 // n], n - 1, "losses")
            for n in options.gpus
            if n > 1
        ]
        listed += [
            ("losses", 200, [script, strategy, n, 32 // n], None, "losses")
            for n in options.gpus
            if n > 1
            for strategy in ("ddp", "fsdp2")
        ]
    if most > 1:
        listed += [
            ("kill", 240, [most], None, "failures"),
            ("kernel", 200, [most], None, "failures"),
        ]
    if 1 in options.gpus:
        listed += [
            ("speed", 150, [shape, "ddp", 1], at % most, "speed 1")
            for at, shape in enumerate(shapes)
        ]
    for n in [most, *options.gpus[:-1]] if most > 1 else []:
        listed += [
            ("speed", 150, [",".join(shapes), strategy, n], None, f"speed {n} {strategy}")
            for strategy in ("ddp", "fsdp2")
            if n > 1
        ]
    if most > 1:
        large = "toy" if toy else "8B"
        listed += [
            ("memory", 200, [f"{large} checkpointed,{large}", "fsdp2", most], None, "memory")
        ]
    return [job for kind in options.only for job in listed if job[0] == kind]


def settings(run, script, micro, steps=LOSS_STEPS):
    """The lesson's script from the base model, 32 rows a step, `micro` of them at once in a
    process."""
    return {
        "start": "",
        "run": run,
        "warmup_steps": 0,
        "batch_size": 32,
        "micro_batch_size": micro,
        "epochs": steps / math.ceil(ROWS[script] / 32),
        "save_steps": 4,
    }


def losses(script, strategy, n, micro):
    """Losses of n processes, a step of 32 rows each."""
    name = f"{script}-{strategy}-{n}-{micro}"
    launch.run(script, n, strategy=strategy, **settings(name, script, micro))
    told = json.loads((runs.root() / f"{name}-pocket" / "run.json").read_text())
    assert told["world_size"] == n
    return {"losses": loss_of(name)}


def loss_of(name):
    found = [row["loss"] for row in runs.metrics(f"{name}-pocket")]
    assert len(found) == LOSS_STEPS, found
    return found


def speed(shapes, strategy, n):
    """For each shape real tokens a second over all processes, and the peak of the fullest GPU; a
    file each."""
    launch.run(
        __file__,
        n,
        strategy=strategy,
        child=shapes,
        result=str(parts("speed", shapes, strategy, n)),
    )


def memory(shapes, strategy, n):
    """Full fine-tuning steps, a row of 2,048 ids in each process; beside the peak what the planner
    says."""
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    result = str(parts("memory", shapes, strategy, n))
    launch.run(__file__, n, strategy=strategy, child=shapes, result=result, full=True)


def parts(*job):
    """Folder of the results of one start with several shapes."""
    return runs.root() / "parts" / "-".join(map(str, job)).replace(",", "+").replace(" ", "_")


def kernel(n):
    """notebook_launcher by a cell of a real kernel, or where there is none of a plain process, on
    all GPUs."""
    code = textwrap.dedent(f"""
        import runpy
        from kit import launch, runs

        lesson = runpy.run_path(str(launch.SCRIPTS / "sft_chat.py"))

        def train(params):
            run = lesson["start_run"](params)
            lesson["train"](params, run)
            return run.facts["world_size"]

        params = lesson["Params"](**{settings(f"kernel-{n}", "sft_chat", 32 // n)!r})
        print(launch.notebook(train, {n}, params), "processes")
    """)
    try:
        import nbformat
        from ipykernel import __version__
        from nbclient import NotebookClient

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        NotebookClient(book, timeout=180).execute()
        told, by = (
            "".join(output.get("text", "") for output in book.cells[0].outputs),
            f"ipykernel {__version__}",
        )
    except ImportError as error:
        file = parts("kernel").with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
        done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
        told, by = done.stdout + done.stderr, f"a plain process, no kernel ({error})"
    assert f"{n} processes" in told, told[-3000:]
    return {"losses": loss_of(f"kernel-{n}"), "by": by}


def kill(n):
    """Kill the last process in the middle: what is told, how soon the others end, and that the run
    goes on."""
    import psutil

    shutil.rmtree(runs.root() / "kill-pocket", ignore_errors=True)  # of an earlier call
    asked, killed = settings("kill", "sft_chat", 32 // n, steps=KILL_STEPS), []

    def when_it_trains():
        path = runs.root() / "kill-pocket" / "metrics.jsonl"
        while not path.is_file() or len(path.read_text().splitlines()) < KILL_AFTER:
            time.sleep(0.02)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.environ().get("RANK") == str(n - 1) and not killed:
                    killed.append(time.monotonic())
                    child.kill()

    threading.Thread(target=when_it_trains, daemon=True).start()
    try:
        launch.run("sft_chat", n, **asked)
        raise AssertionError("the run went through, nothing was killed")
    except KitError as error:
        told, seconds = f"{type(error).__name__}: {error}"[:SENTENCE], time.monotonic() - killed[0]
    before, lines = len(runs.metrics("kill-pocket")), []
    launch.run("sft_chat", n, echo=lines.append, **asked)
    resumed = [line for line in lines if line.startswith("resuming from")]
    assert resumed and len(runs.metrics("kill-pocket")) == KILL_STEPS
    return {
        "told": told,
        "ended_after_s": round(seconds, 1),
        "steps_before": before,
        "resumed": resumed[0],
        "steps": KILL_STEPS,
    }


def config(shape):
    from transformers import Qwen3Config

    hidden, layers, inner, heads, kv_heads, tied, vocabulary = SHAPES[shape]
    return Qwen3Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=16 if vocabulary == 512 else 128,
        tie_word_embeddings=tied,
        vocab_size=vocabulary,
        max_position_embeddings=MEMORY_IDS,
    )


def rows(shape, count, longest=None):
    """Random ids; a log-normal length, or the longest for the memory of a step."""
    from kit import chat

    draw, most = random.Random(0), 64 if shape.startswith("toy") else LONGEST
    lengths = [
        longest or min(most, max(8, int(draw.lognormvariate(math.log(MEDIAN), SPREAD))))
        for _ in range(count)
    ]
    ids = [[draw.randrange(SHAPES[shape][-1]) for _ in range(length)] for length in lengths]
    return [chat.Encoded(row, [1] * len(row)) for row in ids]


def child(shapes, result, full):
    """One of the processes: train each shape, one after the other; process 0 writes a file for
    each."""
    import torch

    Path(result).mkdir(parents=True, exist_ok=True)
    for name in shapes.split(","):
        began, gpu = time.perf_counter(), torch.cuda.is_available()
        before = torch.cuda.memory_allocated() / 1e9 if gpu else 0.0  # of the shape before it
        try:
            told = {"result": full_step(name) if full else timed(name)}
        except torch.OutOfMemoryError as error:
            told = {"error": f"OutOfMemoryError: {error}"[:600]}
        told |= {"seconds": round(time.perf_counter() - began, 1), "before_gb": before}
        if os.environ.get("RANK", "0") == "0":
            partial = Path(result, f"{name}.partial")
            partial.write_text(json.dumps(told))
            partial.rename(Path(result, f"{name}.json"))
        if "error" in told:
            break  # the other processes may wait in a step
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()


def made(shape):
    """The model with random weights in float32, made where it trains; whether that is a GPU."""
    import torch
    from transformers import AutoModelForCausalLM

    from kit import models

    where, local = models.device(), int(os.environ.get("LOCAL_RANK", "0"))
    with torch.device(torch.device(where, local) if where == "cuda" else "cpu"):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config(shape), dtype=torch.float32), where == "cuda"


def timed(shape):
    """The second of two epochs of BATCHES steps, each micro batch packed, with Liger's layers where
    they are."""
    from kit import sft
    from kit.engine import attention, patches

    n = int(os.environ.get("WORLD_SIZE", "1"))
    micro, accumulation = MICRO.get(shape, (4, 2))
    batch = micro * accumulation * n
    model, gpu = made(shape)
    patches.narrow_states(model)  # as models.load does
    used = [attention.use(model).config._attn_implementation]
    if gpu:
        with contextlib.suppress(KitError):  # Liger may not be installed
            used.append("fused " + type(patches.fuse_layers(model)).__name__)
    steps = rows(
        shape, batch * BATCHES
    )  # packed, batches of any rows are full; each is dealt to the processes
    steps = [
        steps[at + i]
        for at in range(0, len(steps), batch)
        for i in sft.by_length([len(row.input_ids) for row in steps[at : at + batch]], batch, 0)
    ]
    data = sft.dataset(
        {"input_ids": [row.input_ids for row in steps], "labels": [row.labels for row in steps]},
        f"{shape} {batch}",
    )
    trainer, clock = trainer_of(
        model,
        data,
        2 * BATCHES,
        sft.hardware(SimpleNamespace(batch_size=batch, micro_batch_size=micro)),
    )
    trainer.train()
    seconds, ids = clock.ends[-1] - clock.ends[BATCHES - 1], sum(map(len, data["input_ids"]))
    return {
        "tokens_per_s": ids / seconds,
        "s_a_step": seconds / BATCHES,
        "tokens": ids,
        "rows_a_step": batch,
        "micro_batch_size": micro,
        "accumulation": accumulation,
        "layers": used,
        **facts(trainer),
    }


def full_step(name):
    """Peak of steps after the first, of rows of equal length in plain layers, which are what the
    planner describes."""
    from kit import memory as planner
    from kit import sft

    shape, checkpointed = name.split()[0], name.endswith("checkpointed")
    n, ids = int(os.environ.get("WORLD_SIZE", "1")), 64 if shape == "toy" else MEMORY_IDS
    model, gpu = made(shape)
    fitting = sft.hardware(SimpleNamespace(batch_size=n, micro_batch_size=1))
    fitting[next(key for key in fitting if key.endswith("_checkpointing"))] = checkpointed
    planned = planner.plan(
        config(shape),
        planner.Training(
            1,
            ids,
            checkpointing=checkpointed,
            strategy="fsdp2",
            precision="autocast" if gpu else "fp32",
            processes=n,
        ),
    )
    data = sft.sft_dataset(rows(shape, n * MEMORY_STEPS, longest=ids), n)
    trainer, clock = trainer_of(model, data, MEMORY_STEPS, fitting)
    trainer.train()
    seconds = (clock.ends[-1] - clock.ends[0]) / (MEMORY_STEPS - 1)
    return {
        "planned_gb": planned.peak / 1e9,
        "planned_moment": planned.moment,
        "ids": ids,
        "s_a_step": seconds,
        "parameters": planner.shape(config(shape)).parameters,
        "tokens_per_s": n * ids / seconds,
        **facts(trainer),
    }


def trainer_of(model, data, steps, fitting):
    """TRL's trainer as the lessons build it, and a callback with the time at which each step
    ended."""
    import torch
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from kit import models

    class Clock(TrainerCallback):
        ends = ()

        def on_step_end(self, args, state, control, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                if state.global_step == 1:
                    torch.cuda.reset_peak_memory_stats()  # loading holds whole weights, and the moments come at step 1
            self.ends += (time.perf_counter(),)

    clock = Clock()
    config = SFTConfig(
        **fitting | {"max_steps": steps},
        output_dir=tempfile.mkdtemp(),
        save_strategy="no",
        learning_rate=1e-5,
        logging_steps=1,
        report_to="none",
        max_length=None,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return SFTTrainer(
        model,
        config,
        train_dataset=data,
        callbacks=[clock],
        processing_class=AutoTokenizer.from_pretrained(models.POCKET),
    ), clock


def facts(trainer):
    """What every measurement tells: the peak of the fullest GPU, how the model is split, the
    losses."""
    import torch

    gpu = torch.cuda.is_available()
    mine = (
        [float(torch.cuda.max_memory_allocated()), float(torch.cuda.max_memory_reserved())]
        if gpu
        else [0.0, 0.0]
    )
    peaks = (
        trainer.accelerator.gather(torch.tensor([mine], device=trainer.args.device))
        .max(0)
        .values.tolist()
    )
    split = str(trainer.accelerator.distributed_type).split(".")[-1]
    return {
        "peak_gb": peaks[0] / 1e9,
        "reserved_gb": peaks[1] / 1e9,
        "split": split,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }


def machine():
    """Hardware and versions, as the first entry of the results."""
    try:  # torch would take memory of the first GPU to tell its name
        gpus = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        gpus = []
    return {
        "date": datetime.date.today().isoformat(),
        "gpus": gpus,
        "cores": os.cpu_count(),
        "seed": 0,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "trl", "accelerate")},
    }


def do(kind, seconds, arguments, card):
    """One job in a process of its own, of which none is left when its time is over; its results,
    one a shape."""
    began, told = time.monotonic(), {}
    environment = {
        **os.environ,
        **({"CUDA_VISIBLE_DEVICES": str(card)} if card is not None else {}),
    }
    process = subprocess.Popen(
        [sys.executable, __file__, "--job", json.dumps([kind, arguments])],
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as late:
        out = f"{(late.output or b'').decode(errors='replace')}\nno end within {seconds:.0f} s"
    finally:
        launch._kill(process)
    took = round(time.monotonic() - began)
    with open(os.environ["SCALING_LOG"], "a", encoding="utf-8") as log:
        log.write(f"\n===== {kind} {arguments}\n{out[-6000:]}\n")
    if kind not in ("speed", "memory"):
        found = [json.loads(line[8:]) for line in out.splitlines() if line.startswith("RESULT: ")]
        told = {"result": found[0]} if found else {"error": out[-3000:]}
        return [{"job": kind, "arguments": arguments, "seconds": took, **told}]
    done = []
    for shape in arguments[0].split(","):
        file = parts(kind, *arguments) / f"{shape}.json"
        told = json.loads(file.read_text()) if file.is_file() else {"error": out[-3000:]}
        done.append(
            {
                "job": kind,
                "arguments": [shape, *arguments[1:]],
                "start_s": took,
                "seconds": took,
                **told,
            }
        )
    return done


def wanted(jobs, done):
    """Jobs without the shapes whose results are there."""
    have = {(r["job"], *r["arguments"]) for r in done if "result" in r}
    for kind, seconds, (first, *rest), card, wave in jobs:
        left = [part for part in str(first).split(",") if (kind, part, *rest) not in have]
        if kind in ("speed", "memory"):
            if left:
                yield kind, seconds, [",".join(left), *rest], card, wave
        elif (kind, first, *rest) not in have:
            yield kind, seconds, [first, *rest], card, wave


def apart(ours, theirs):
    """Largest distance of two lists of losses, in nats."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def table(results):
    """What was found, a line a job; efficiency and losses against one process."""
    good = {(r["job"], *r["arguments"]): r["result"] for r in results if "result" in r}
    alone = {
        key[1]: found["tokens_per_s"]
        for key, found in good.items()
        if key[0] == "speed" and key[-1] == 1
    }
    for r in results:
        found, name = r.get("result"), " ".join(map(str, [r["job"], *r["arguments"]]))
        if found is None:
            print(f"{name:34} FAILED: {(r['error'].strip() or 'no output').splitlines()[-1][:150]}")
        elif r["job"] == "speed":
            shape, strategy, n = r["arguments"]
            share = found["tokens_per_s"] / n / alone[shape] if shape in alone else float("nan")
            goal = f" (goal {GOALS[strategy]:.0%})" if n == 8 else ""
            print(
                f"{name:34} {found['tokens_per_s']:12,.0f} tokens/s  efficiency {share:.1%}{goal}  "
                f"peak {found['peak_gb']:.1f} GB  {found['split']}"
            )
        elif r["job"] == "memory":
            print(
                f"{name:34} peak {found['peak_gb']:.1f} GB, planned {found['planned_gb']:.1f} GB "
                f"({found['planned_gb'] / max(found['peak_gb'], 1e-9) - 1:+.1%})  {found['split']}"
            )
        elif r["job"] == "kill":
            print(
                f"{name:34} ended after {found['ended_after_s']} s: {found['told'][:90]}; {found['resumed']}"
            )
        else:
            script, micro = (
                (r["arguments"][0], r["arguments"][-1])
                if r["job"] == "losses"
                else ("sft_chat", 16)
            )
            gaps = [
                f"{apart(found['losses'], good[key]['losses']):.1e} in micro batches of {size}"
                for size in (micro, 32)
                if (key := ("losses", script, "ddp", 1, size)) in good
            ]
            print(f"{name:34} nats from one process: {', '.join(gaps) or 'nothing to compare'}")


def main():
    """Run the jobs that are missing in --out, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--gpus", type=lambda text: sorted(map(int, text.split(","))))
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--full", action="store_true", help=argparse.SUPPRESS)
    for hidden in ("--job", "--child", "--result"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.result, options.full)
    if options.job:
        kind, arguments = json.loads(options.job)
        print("\nRESULT: " + json.dumps(globals()[kind](*arguments)))
        return None
    import torch

    most = 2 if options.toy else max(1, torch.cuda.device_count())
    options.gpus = options.gpus or [2**k for k in range(most.bit_length()) if 2**k <= most]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ.get("KIT_RUNS", options.out.parent), f"{options.out.stem}.runs")
    os.environ["KIT_RUNS"] = str(folder.absolute())
    os.environ["SCALING_LOG"] = str(options.out.absolute().with_suffix(".log"))
    run(list(jobs(options)), options.out, time.monotonic() + 60 * options.minutes)
    return None


def run(listed, out, until):
    """The jobs by waves; each result is in the file as soon as its job ends."""
    done = json.loads(out.read_text())["results"] if out.exists() else []
    lock, cores = threading.Lock(), threading.Semaphore(max(1, os.cpu_count() // 4))

    def one(*job):
        with cores:
            within_time(*job)

    def within_time(kind, seconds, arguments, card, wave):
        left = until - time.monotonic()
        if left < seconds / 4:
            print(f"no time for {kind} {arguments}: call again with the same --out", flush=True)
            return
        try:
            found = do(kind, min(seconds, left), arguments, card)
        except Exception as error:
            found = [
                {"job": kind, "arguments": arguments, "seconds": 0, "error": repr(error)[:600]}
            ]
        with lock:
            fresh = {(r["job"], *r["arguments"]) for r in found}
            done[:] = [r for r in done if (r["job"], *r["arguments"]) not in fresh] + found
            out.write_text(json.dumps({"machine": machine(), "results": done}, indent=1))
            for r in found:
                print(
                    kind,
                    r["arguments"],
                    r["seconds"],
                    "s",
                    "ok" if "result" in r else "FAILED",
                    flush=True,
                )

    left = list(wanted(listed, done))
    for wave in dict.fromkeys(job[-1] for job in left):
        threads = [threading.Thread(target=one, args=job) for job in left if job[-1] == wave]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print()
    table(done)


if __name__ == "__main__":
    main()
