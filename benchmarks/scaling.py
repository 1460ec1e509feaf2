"""How training scales over the GPUs of one host: equal losses, tokens/s, memory of an 8B step, failures.

    python benchmarks/scaling.py --out scaling.json [--minutes 9] [--only losses,speed,memory,kernel,kill] [--gpus 1,8]
    python benchmarks/scaling.py --out toy.json --toy          the same jobs with two CPU processes and toy shapes

Each job is a process of its own with a limit; its result is written to --out as it comes. A second call with the same
--out does what is missing or failed, so the jobs may be spread over several calls. The table is printed last.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from kit import launch, runs  # noqa: E402
from kit.errors import KitError  # noqa: E402

PROJECT = Path(__file__).parents[1]
SHAPES = {  # hidden, layers, inner, heads, kv heads, tied, vocabulary, rows at once in one process
    "0.6B": (1024, 28, 3072, 16, 8, True, 151_936, 48),
    "1.7B": (2048, 28, 6144, 16, 8, True, 151_936, 16),
    "8B": (4096, 36, 12288, 32, 8, False, 151_936, 1),
    "toy": (64, 2, 128, 4, 2, True, 512, 4),
}
WARM, TIMED = 4, 10  # steps
MEDIAN, SPREAD, LONGEST = 270, 0.9, 2048  # ids a row, log-normal
ROWS = {"sft_chat": 9000, "dpo": 1500}  # in the course's data
LOSS_STEPS, KILL_AFTER, KILL_STEPS = 8, 5, 40
KINDS = ("losses", "speed", "memory", "kernel", "kill")
GOALS = {"ddp": 0.92, "fsdp2": 0.85}  # efficiency at 8 GPUs


def jobs(options):
    """[name, seconds it may take, arguments], the most telling first."""
    most, few = options.gpus[-1], options.gpus[:-1] if len(options.gpus) > 1 else options.gpus
    counts = [most, *few]
    shapes = ["toy"] if options.toy else ["0.6B", "1.7B"]
    listed = [("losses", 120, [script, strategy, n]) for script in ("sft_chat", "dpo")
              for n in [1, *(n for n in counts if n > 1)] for strategy in (("ddp", "fsdp2") if n > 1 else ("ddp",))]
    listed += [("speed", 150, [shape, strategy, n]) for n in counts for shape in shapes
               for strategy in (("ddp", "fsdp2") if n > 1 else ("ddp",))]
    if most > 1:
        listed += [("memory", 300, ["toy" if options.toy else "8B", "fsdp2", most]), ("kernel", 150, [most]),
                   ("kill", 240, [most])]
    return [job for kind in options.only for job in listed if job[0] == kind]


def settings(run, script, n, steps=LOSS_STEPS):
    """The lesson's script from the base model, 32 rows a step over n processes."""
    return {"start": "", "run": run, "warmup_steps": 0, "batch_size": 32, "micro_batch_size": 32 // n,
            "epochs": steps / math.ceil(ROWS[script] / 32), "save_steps": 4}


def losses(script, strategy, n):
    """Losses of n processes, and how far they are from those of one, which an earlier job left in the folder."""
    name = f"{script}-{strategy}-{n}"
    launch.run(script, n, strategy=strategy, **settings(name, script, n))
    ours = [row["loss"] for row in runs.metrics(f"{name}-pocket")]
    alone = [row["loss"] for row in runs.metrics(f"{script}-ddp-1-pocket")]
    facts = json.loads((runs.root() / f"{name}-pocket" / "run.json").read_text())
    assert facts["world_size"] == n and len(ours) == len(alone) == LOSS_STEPS
    return {"losses": ours, "apart": max(abs(a - b) for a, b in zip(ours, alone, strict=True))}


def speed(shape, strategy, n):
    """Real tokens a second over all processes, and the peak of the fullest GPU."""
    with tempfile.TemporaryDirectory() as folder:
        launch.run(__file__, n, strategy=strategy, child=shape, result=f"{folder}/result.json")
        return json.loads(Path(folder, "result.json").read_text())


def memory(shape, strategy, n):
    """A full fine-tuning step, rows of 2,048 ids, one in each process; beside it what the planner says."""
    from kit import memory as planner

    precision = "fp32" if shape == "toy" else "autocast"
    planned = planner.plan(config(shape), planner.Training(
        SHAPES[shape][-1], LONGEST, precision=precision, strategy=strategy, processes=n))
    return {**speed(shape, strategy, n), "planned_gb": planned.peak / 1e9}


def kernel(n):
    """notebook_launcher by a cell of a real kernel, on all GPUs."""
    import nbformat
    from nbclient import NotebookClient

    cell = f"""
        import runpy
        from kit import launch, runs

        lesson = runpy.run_path(str(launch.SCRIPTS / "sft_chat.py"))

        def train(params):
            run = lesson["start_run"](params)
            lesson["train"](params, run)
            return run.facts["world_size"]

        print(launch.notebook(train, {n}, lesson["Params"](**{settings(f"kernel-{n}", "sft_chat", n)!r})), "processes")
    """
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(t[8:] for t in cell.splitlines()))])
    NotebookClient(book, timeout=140).execute()
    told = "".join(output.get("text", "") for output in book.cells[0].outputs)
    assert f"{n} processes" in told, told
    ours = [row["loss"] for row in runs.metrics(f"kernel-{n}-pocket")]
    alone = [row["loss"] for row in runs.metrics("sft_chat-ddp-1-pocket")]
    return {"apart": max(abs(a - b) for a, b in zip(ours, alone, strict=True))}


def kill(n):
    """Kill the last process in the middle: what is told, how soon the others end, and that the run goes on."""
    import psutil

    asked, killed = settings("kill", "sft_chat", n, steps=KILL_STEPS), []

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
        told, seconds = f"{type(error).__name__}: {error}", time.monotonic() - killed[0]
    lines = []
    launch.run("sft_chat", n, echo=lines.append, **asked)
    resumed = [line for line in lines if line.startswith("resuming from")]
    assert resumed and len(runs.metrics("kill-pocket")) == KILL_STEPS
    return {"told": told, "ended_after_s": round(seconds, 1), "resumed": resumed[0]}


def config(shape):
    from transformers import Qwen3Config

    hidden, layers, inner, heads, kv_heads, tied, vocabulary, _ = SHAPES[shape]
    return Qwen3Config(hidden_size=hidden, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=heads,
                       num_key_value_heads=kv_heads, head_dim=hidden // heads if shape == "toy" else 128,
                       tie_word_embeddings=tied, vocab_size=vocabulary, max_position_embeddings=LONGEST)


def rows(shape, count):
    """Random ids; a log-normal length, or the longest for the memory of a step."""
    from kit import chat

    draw, most = random.Random(0), 64 if shape == "toy" else LONGEST
    lengths = [most if shape == "8B" else min(most, max(8, int(draw.lognormvariate(math.log(MEDIAN), SPREAD))))
               for _ in range(count)]
    ids = [[draw.randrange(SHAPES[shape][-2]) for _ in range(length)] for length in lengths]
    return [chat.Encoded(row, [1] * len(row)) for row in ids]


def child(shape, result):
    """One of the processes: train, time the steps after the warm ones, process 0 writes the result."""
    import torch
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from kit import attention, models, training
    from kit import speed as layers

    sys.path.insert(0, str(PROJECT / "tests"))
    import tiny  # its tokenizer is enough for rows that are ids

    where, micro = models.device(), SHAPES[shape][-1]
    batch = micro * int(os.environ.get("WORLD_SIZE", "1"))
    fitting = training.hardware(batch, micro)
    with torch.device(torch.device(where, int(os.environ.get("LOCAL_RANK", "0"))) if where == "cuda" else "cpu"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(shape), dtype=torch.float32)
    model.get_input_embeddings().register_forward_hook(models._narrow)  # as models.load does
    used = [attention.use(model).config._attn_implementation]
    with contextlib.suppress(KitError):  # Liger may not be installed
        if where == "cuda":
            used.append("fused " + type(layers.fused_layers(model)).__name__)
    data = training.sft_dataset(rows(shape, batch * (WARM + TIMED)), batch)
    real = [sum(map(len, data["input_ids"][at : at + batch])) for at in range(0, len(data), batch)]
    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if where == "cuda":
                torch.cuda.synchronize()
                if state.global_step == 1:
                    torch.cuda.reset_peak_memory_stats()  # loading holds whole weights, and the moments come at step 1
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(model, SFTConfig(**fitting, output_dir=folder, max_steps=WARM + TIMED, save_strategy="no",
                                              learning_rate=1e-5, logging_steps=1, report_to="none", max_length=None,
                                              disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True}),
                             train_dataset=data, processing_class=tiny.tokenizer(), callbacks=[Clock()])
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if where == "cuda" else 0
    peaks = trainer.accelerator.gather(torch.tensor([float(peak)], device=trainer.args.device)).tolist()
    seconds = ends[-1] - ends[WARM - 1]
    if trainer.is_world_process_zero():
        Path(result).write_text(json.dumps({
            "tokens_per_s": sum(real[WARM:]) / seconds, "s_a_step": seconds / TIMED, "peak_gb": max(peaks) / 1e9,
            "layers": used, "split": str(trainer.accelerator.distributed_type),
            "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row]}))


def machine():
    """Hardware and versions, as the first entry of the results."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"date": datetime.date.today().isoformat(), "gpus": gpus or "none", "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "transformers", "trl", "accelerate")}}


def do(name, arguments, seconds):
    """One job in a process of its own; no process of it is left when its time is over."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, __file__, "--job", json.dumps([name, arguments])], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        out = f"no end within {seconds:.0f} s"
    finally:
        launch._kill(process)
    found = [json.loads(line[8:]) for line in out.splitlines() if line.startswith("RESULT: ")]
    told = {"result": found[0]} if found else {"error": out[-1500:]}
    return {"job": name, "arguments": arguments, "seconds": round(time.monotonic() - began), **told}


def table(results):
    """What was found, a line a job; efficiency against one process of the same shape."""
    alone = {r["arguments"][0]: r["result"]["tokens_per_s"] for r in results
             if r["job"] == "speed" and r["arguments"][-1] == 1 and "result" in r}
    for r in results:
        found, name = r.get("result"), " ".join(map(str, [r["job"], *r["arguments"]]))
        if found is None:
            print(f"{name:28} FAILED: {(r['error'].strip() or 'no output').splitlines()[-1][:150]}")
        elif r["job"] in ("speed", "memory"):
            shape, strategy, n = r["arguments"]
            share = found["tokens_per_s"] / n / alone[shape] if shape in alone else float("nan")
            goal = f" (goal {GOALS[strategy]:.0%})" if n == 8 and r["job"] == "speed" else ""
            planned = f", planned {found['planned_gb']:.1f} GB" if found.get("planned_gb") else ""
            print(f"{name:28} {found['tokens_per_s']:12,.0f} tokens/s  efficiency {share:.1%}{goal}  "
                  f"peak {found['peak_gb']:.1f} GB{planned}  {found['split'].split('.')[-1]}")
        elif r["job"] == "kill":
            print(f"{name:28} ended after {found['ended_after_s']} s: {found['told'][:90]}; {found['resumed']}")
        else:
            print(f"{name:28} at most {found['apart']:.1e} nats from one process")


def main():
    """Run the jobs that are missing in --out, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--gpus", type=lambda text: sorted(map(int, text.split(","))))
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.result)
    if options.job:
        name, arguments = json.loads(options.job)
        print("RESULT: " + json.dumps(globals()[name](*arguments)))
        return None
    import torch

    most = 2 if options.toy else max(1, torch.cuda.device_count())
    options.gpus = options.gpus or [2**k for k in range(most.bit_length()) if 2**k <= most]
    os.environ["KIT_RUNS"] = str(options.out.absolute().with_suffix(".runs"))
    until, done = time.monotonic() + 60 * options.minutes, []
    if options.out.exists():
        done = [r for r in json.loads(options.out.read_text())["results"] if "result" in r]
    for name, seconds, arguments in jobs(options):
        if any((r["job"], r["arguments"]) == (name, arguments) for r in done):
            continue
        if until - time.monotonic() < seconds / 3:
            print(f"no time for {name} {arguments}: call again with the same --out", flush=True)
            continue
        done.append(do(name, arguments, min(seconds, until - time.monotonic())))
        options.out.write_text(json.dumps({"machine": machine(), "results": done}, indent=1))
        print(name, arguments, done[-1]["seconds"], "s", "ok" if "result" in done[-1] else "FAILED", flush=True)
    print()
    table(done)
    return None


if __name__ == "__main__":
    main()
