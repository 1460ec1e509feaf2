"""What DeepSpeed's own parser makes of configs/deepspeed_zero3.json; a process of its own for test_configs.py.

python tests/helpers/read_deepspeed.py UPDATE    with deepspeed on the path; UPDATE is JSON that replaces keys of the config
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from deepspeed.runtime.config import DeepSpeedConfig
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig


def filled(micro, accumulation):
    """The config with its "auto" filled in, as transformers does it from the trainer's settings of one process."""
    args = TrainingArguments(
        output_dir="x",
        per_device_train_batch_size=micro,
        bf16=True,
        use_cpu=True,
        gradient_accumulation_steps=accumulation,
    )
    config = HfTrainerDeepSpeedConfig(
        str(Path(__file__).parents[2] / "configs" / "deepspeed_zero3.json")
    )
    with patch.object(
        TrainingArguments, "world_size", 1
    ):  # the parser takes itself for the only process
        config.trainer_config_process(args)
        config.trainer_config_finalize(
            args, SimpleNamespace(config=SimpleNamespace(hidden_size=192)), 10
        )
    return config.config


config = {**filled(micro=4, accumulation=2), **json.loads(sys.argv[1])}
read = DeepSpeedConfig(config)
print(
    json.dumps(
        {
            "auto": "auto" in json.dumps(config),
            "stage": read.zero_optimization_stage,
            "gathers": read.zero_config.gather_16bit_weights_on_model_save,
            "batch": read.train_batch_size,
            "bf16": read.bfloat16_config.enabled,
            "clipping": read.gradient_clipping,
        }
    )
)
