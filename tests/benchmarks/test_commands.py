"""Each benchmark starts, and its parts that need no GPU do what their names say."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import contenders, dpo, pretrained_start, profiles, resume_gpu
from kit import models

SCRIPTS = (
    "decisions",
    "dpo",
    "memory_gpu",
    "pretrained_start",
    "resume_gpu",
    "scaling",
    "speed_cpu",
    "speed_gpu",
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_its_flags(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{name}").main()
    assert end.value.code == 0 and "--" in capsys.readouterr().out


@pytest.mark.parametrize("tokens, rows", [(1_000, 2), (6_000, 16), (10**9, 48), (1, 1)])
def test_rows_at_once_divide_the_step(tokens, rows):
    assert contenders.micro_batch_size([300, 400, 350], 48, tokens) == rows


def test_communication_alone_is_what_no_other_kernel_hides():
    kernels = [
        (0.0, 4.0, "gemm"),
        (3.0, 6.0, "ncclAllReduce"),
        (5.0, 7.0, "adam"),
        (9.0, 10.0, "ncclAllGather"),
    ]
    assert profiles.alone(kernels, "nccl") == (4.0, 2.0)


@pytest.mark.parametrize("kind", resume_gpu.KINDS)
def test_the_interrupted_training_has_the_steps_that_its_checks_count(kind, tmp_path):
    run = SimpleNamespace(settings=lambda: {"output_dir": str(tmp_path), "report_to": "none"})
    trainer = resume_gpu.build(run, kind, gpu=False)
    rows = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    assert len(trainer.train_dataset) == rows * resume_gpu.STEPS
    assert 0 < resume_gpu.SAVE < resume_gpu.STOP < 2 * resume_gpu.SAVE < resume_gpu.STEPS


def test_random_weights_have_the_architecture_of_pocket(tmp_path):
    folder = pretrained_start.base("random", tmp_path, 1)
    (random, _), (pocket, _) = models.load(folder), models.load("pocket")
    assert pretrained_start.base("pocket", tmp_path, 1) == str(models.POCKET)
    assert random.config.to_diff_dict().keys() == pocket.config.to_diff_dict().keys()
    for ours, theirs in zip(random.parameters(), pocket.parameters(), strict=True):
        assert ours.shape == theirs.shape
    assert not torch.equal(random.lm_head.weight, pocket.lm_head.weight)


def test_a_gain_is_the_mean_over_the_seeds():
    before = dict.fromkeys(dpo.MEASURES, [0.0, 0.0, 1.0, 1.0])
    after = [dict.fromkeys(dpo.MEASURES, hits) for hits in ([1.0, 0.0, 1.0, 1.0], [1.0] * 4)]
    for difference, low, high in dpo.change(before, after).values():
        assert difference == 0.375 and low < difference < high


@pytest.mark.long
@pytest.mark.parametrize("script", [pretrained_start])
def test_a_short_run_writes_its_record(script, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_MAX_STEPS", "2")
    out = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", ["run", "--seeds", "1", "--out", str(out)])
    script.main()
    groups = json.loads(out.read_text())["groups"]
    assert groups and all(len(group["pocket"]) == 1 for group in groups.values())
