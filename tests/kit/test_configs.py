"""The configs run: DDP and FSDP2 by CPU processes, DeepSpeed's by its parsers, Slurm's and SkyPilot's by stand-ins.

tests/long/test_clusters.py runs the last two by the real programs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tiny

from kit import launch, runs
from kit.engine import distributed, patches
from kit.errors import MissingError, SettingsError

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "configs"
SKYPILOT = CONFIGS / "skypilot.yaml"
OF_ACCELERATE = sorted({*CONFIGS.glob("*.yaml")} - {SKYPILOT})
ACCELERATE = Path(sys.executable).with_name("accelerate")
LESSON = PROJECT / "tests" / "helpers" / "lesson.py"
ROWS, BATCH, STEPS, NEAR = 200, 8, 3, 1e-5  # rows; rows per step; steps; nats
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with tiny.first_chats(tmp_path_factory.mktemp("configs"), ROWS, STEPS) as path:
        yield path


def settings(folder, run, **changes):
    return {
        "task": str(folder / "chat.jsonl"),
        "run": run,
        "batch_size": BATCH,
        "save_steps": 2,
        **changes,
    }


@pytest.fixture(scope="module")
def alone(folder):
    """The run of one process that the others must equal."""
    launch.run(LESSON, 1, **settings(folder, "alone"))
    return runs.root() / "alone-pocket"


def losses(run, key="loss"):
    return [json.loads(line)[key] for line in (run / "metrics.jsonl").read_text().splitlines()]


def facts(run):
    return json.loads((run / "run.json").read_text())


def check_equal(run, alone):
    assert facts(run)["world_size"] == 2
    assert losses(run, "batch_hash") == losses(alone, "batch_hash")
    ours, theirs = losses(run), losses(alone)
    assert len(ours) == len(theirs) == 3  # each step once, whatever the number of processes
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= NEAR, (ours, theirs)


def logits(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = tokenizer("every day at noon", return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        return model(**ids).logits


def test_ddp_from_inside_scripts_with_a_file_of_settings(folder, alone):
    """The line of the README, typed in scripts/, with --config: `accelerate launch --num_processes=2 SCRIPT`."""
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings(folder, "other")))
    done = subprocess.run(
        [
            ACCELERATE,
            "launch",
            "--config_file",
            "../configs/ddp.yaml",
            "--num_processes=2",
            "--main_process_port=0",
            "../tests/helpers/lesson.py",
            "--config",
            file,
            "--run",
            "ddp",
        ],
        cwd=PROJECT / "scripts",
        env=os.environ | launch._environment(2),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained 3 steps") == 1  # process 0 alone
    check_equal(runs.root() / "ddp-pocket", alone)


def test_one_process_where_two_were_asked_for_is_refused(folder):
    """Without a GPU and a config, `accelerate launch --num_processes=2` starts one process and says nothing."""
    code = "from kit.engine.distributed import join; join(cpu=True)"
    (folder / "alone.py").write_text(code)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    done = subprocess.run(
        [ACCELERATE, "launch", "--num_processes=2", folder / "alone.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**clean, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode != 0
    assert (
        "expected 2 processes to train together, got 1" in done.stderr
        and "configs/ddp.yaml" in done.stderr
    )


@pytest.fixture(scope="module")
def split(folder):
    launch.run(LESSON, 2, strategy="fsdp2", **settings(folder, "fsdp2"))
    return runs.root() / "fsdp2-pocket"


def test_fsdp2_trains_what_one_process_trains(split, alone):
    check_equal(split, alone)


def test_fsdp2_splits_the_weights(split):
    """Without kit.engine.distributed, accelerate trains by DDP on CPUs; then no checkpoint has parts of two processes."""
    parts = sorted(
        file.name for file in (split / "checkpoint-3" / "pytorch_model_fsdp_0").iterdir()
    )
    assert parts == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    sizes = [
        (split / "checkpoint-3" / "pytorch_model_fsdp_0" / name).stat().st_size
        for name in parts[1:]
    ]
    assert max(sizes) < 0.6 * sum(sizes)


def apart(one, two):
    """How far two trained models are from each other, relative to how far training took the second from the base.

    Adam divides by the size of a gradient, so rounding moves single weights by as much as a step: no absolute limit
    on one weight holds for every processor, and this ratio does.
    """
    from safetensors.torch import load_file

    from kit import models

    one, two, base = (
        load_file(Path(folder) / "model.safetensors") for folder in (one, two, models.POCKET)
    )
    assert {name: (t.shape, t.dtype) for name, t in one.items()} == {
        n: (t.shape, t.dtype) for n, t in two.items()
    }
    same = [name for name in two if name in base and base[name].shape == two[name].shape]
    assert len(same) > 10
    return (
        sum(float((one[name] - two[name]).pow(2).sum()) for name in same)
        / sum(float((base[name].float() - two[name]).pow(2).sum()) for name in same)
    ) ** 0.5


def test_the_model_of_fsdp2_is_whole(split, alone):
    assert (
        apart(split / "model", alone / "model") < 0.01
    )  # a model with one layer of another run is at 0.1 and more


def test_a_checkpoint_of_fsdp2_merges_to_a_folder_that_loads(split, tmp_path):
    """The command of configs/fsdp2.yaml; at the last step the checkpoint and model/ hold the same weights."""
    import torch

    done = subprocess.run(
        [ACCELERATE, "merge-weights", split / "checkpoint-3" / "pytorch_model_fsdp_0", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for file in (split / "checkpoint-3").glob("*.json*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert torch.equal(logits(tmp_path), logits(split / "model"))


def test_fsdp2_sums_gradients_and_hands_on_outputs_in_float32():
    """accelerate's own policy rounds both to bfloat16, a log-probability of -6 to the nearest 1/32."""
    import torch
    from accelerate import FullyShardedDataParallelPlugin

    patches.fsdp_in_float32()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (
        torch.bfloat16,
        torch.float32,
        None,
    )


def test_dpo_in_bf16_starts_at_its_reference_under_fsdp2(folder):
    """The reference is split, on bf16 weights, before the policy is; against a whole policy the first loss was 0.70."""
    launch.run(
        LESSON,
        2,
        strategy="fsdp2",
        kind="dpo",
        bf16=True,
        run="bf16",
        task="cron",
        batch_size=BATCH,
    )
    margins = losses(runs.root() / "bf16-pocket", "rewards/margins")
    assert abs(margins[0]) < 1e-3 < abs(margins[1])


@pytest.mark.long
def test_fsdp2_goes_on_from_its_checkpoint(folder, split):
    import shutil

    again = runs.root() / "again-pocket"
    shutil.copytree(split, again)
    for gone in ("checkpoint-3", "model"):
        shutil.rmtree(again / gone)
    (again / "report.json").unlink()
    text = (
        (again / "run.json")
        .read_text()
        .replace('"fsdp2"', '"again"')
        .replace('"fsdp2-pocket"', '"again-pocket"')
    )
    (again / "run.json").write_text(text)
    lines = []
    launch.run(LESSON, 2, strategy="fsdp2", echo=lines.append, **settings(folder, "again"))
    assert "resuming from checkpoint-2" in lines
    assert losses(again) == losses(split)


@pytest.mark.long
def test_adapters_are_merged_under_fsdp2(folder):
    """With a template of its own no table trains, so one process and two train the same weights."""
    from kit import models

    model, tokenizer = models.load("pocket", where="cpu")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    for part in (model, tokenizer):
        part.save_pretrained(folder / "own")
    own = {"model": str(folder / "own"), "lora_rank": 4}
    for run, count in (("lora1", 1), ("lora2", 2)):
        launch.run(LESSON, count, strategy="fsdp2", **settings(folder, run, **own))
    one, two = (runs.find(runs.run_name(run, own["model"])) for run in ("lora1", "lora2"))
    assert apart(two / "model", one / "model") < 0.01


def test_every_config_says_how_it_is_launched():
    for file in OF_ACCELERATE:
        assert f"--config_file configs/{file.name}" in file.read_text()


@pytest.mark.parametrize("file", OF_ACCELERATE, ids=lambda file: file.stem)
def test_accelerate_knows_every_key(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    given = yaml.safe_load(file.read_text())
    assert (
        config.num_processes == given["num_processes"]
        and config.distributed_type == given["distributed_type"]
    )


def test_accelerate_reads_the_deepspeed_config():
    """Accelerate's reader, which the course installs; what it cannot know is the next test's."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    config = HfDeepSpeedConfig(str(CONFIGS / "deepspeed_zero3.json"))
    assert config.is_zero3() and not config.is_offload()
    named = yaml.safe_load((CONFIGS / "deepspeed_zero3.yaml").read_text())["deepspeed_config"][
        "deepspeed_config_file"
    ]
    assert (PROJECT / named).is_file()


def deepspeed_reads(update):
    """tests/helpers/read_deepspeed.py, with the DeepSpeed that `make test` puts beside the environment."""
    folder = Path(sys.prefix, "deepspeed")
    assert folder.is_dir(), (
        "DeepSpeed was expected beside the environment, it is not there; run `make .venv/deepspeed`"
    )
    return subprocess.run(
        [
            sys.executable,
            str(PROJECT / "tests" / "helpers" / "read_deepspeed.py"),
            json.dumps(update),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_deepspeed_accepts_its_config():
    """By DeepSpeed's own parser, after transformers has filled in every "auto"; it refuses unknown keys."""
    read = deepspeed_reads({})
    assert read.returncode == 0, read.stderr
    values = {"auto": False, "stage": 3, "gathers": True, "batch": 8, "bf16": True, "clipping": 1.0}
    assert json.loads(read.stdout.splitlines()[-1]) == values
    refused = deepspeed_reads({"zero_optimization": {"stage": 3, "stage3_prefetch": 1}})
    assert refused.returncode == 1 and "stage3_prefetch" in refused.stderr


def test_deepspeed_needs_gpus(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(SettingsError, match="expected GPUs, got none"):
        distributed.join(cpu=True)


def test_an_unknown_strategy(folder):
    with pytest.raises(
        MissingError, match="fsdp3.yaml: expected a script and an accelerate config"
    ):
        launch.run(LESSON, 2, strategy="fsdp3")


def test_slurm_starts_one_launcher_a_host(tmp_path):
    """srun and scontrol are stand-ins: srun runs its command once a host with that host's number."""
    for name, text in {
        "scontrol": 'printf "alpha\\nbeta\\n"',
        "srun": 'shift; for SLURM_PROCID in 0 1; do SLURM_PROCID=$SLURM_PROCID "$@"; done',
        "accelerate": 'echo "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", CONFIGS / "slurm.sh", "--epochs", "2"],
        capture_output=True,
        text=True,
        check=True,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NODELIST": "[a-b]",
        },
    )
    lines = done.stdout.splitlines()
    assert [line.split("--machine_rank ")[1] for line in lines] == [
        f"{k} --main_process_ip alpha scripts/sft_chat.py --epochs 2" for k in (0, 1)
    ]
    assert all("--num_machines 2 --num_processes 16" in line for line in lines)


def test_skypilot_starts_one_launcher_per_host(tmp_path):
    """`run` with the variables that SkyPilot sets on each host."""
    fields = yaml.safe_load(SKYPILOT.read_text())
    assert fields["num_nodes"] == 2 and fields["resources"]["accelerators"] == "H100:8"
    assert fields["envs"]["KIT_RUNS"] in fields["volumes"]  # on a disk that both hosts see
    assert (PROJECT / fields["envs"]["SCRIPT"]).is_file() and "sky launch" in SKYPILOT.read_text()
    accelerate = tmp_path / "accelerate"
    accelerate.write_text('#!/bin/bash\necho "$@"\n')
    accelerate.chmod(0o755)
    for rank in ("0", "1"):
        host = {
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": rank,
            "SKYPILOT_NUM_GPUS_PER_NODE": "8",
            "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6",
            "PATH": f"{tmp_path}:/usr/bin:/bin",
        }
        done = subprocess.run(
            ["bash", "-c", fields["run"]],
            env=fields["envs"] | host,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (
            done.stdout.split()
            == (
                "launch --config_file configs/two_nodes.yaml --num_machines 2 "
                f"--machine_rank {rank} --num_processes 16 "
                "--main_process_ip 10.0.0.5 scripts/sft_chat.py --epochs 2"
            ).split()
        )
