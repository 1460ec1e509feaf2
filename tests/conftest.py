"""Tests of equal numbers run in float32 on every machine; bfloat16 has tests of its own."""

import os

os.environ.setdefault("KIT_DTYPE", "float32")
