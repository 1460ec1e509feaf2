"""Seconds, peak memory and cache of reading a JSON Lines file that is made on the fly.

`python benchmarks/read_records.py --megabytes 200`. Each reader runs in a process of its own; the
second one, datasets.load_dataset, checks nothing and is here to compare time, memory and cache.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

READERS = {
    "kit.records": """
        from kit import records
        rows = records.read(path, "chat")
        assert rows.rows_in == rows.rows_used == len(rows)
        last = rows[-1]
        """,
    "load_dataset": """
        from datasets import load_dataset
        rows = load_dataset("json", data_files=path, split="train")
        last = rows[-1]
        """,
}
MEASURED = """
import json, os, resource, sys, time
path = sys.argv[1]
begun = time.perf_counter()
{body}
print(json.dumps([len(rows), time.perf_counter() - begun,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, last]))
"""


def make(path, megabytes, seed=0):
    """Chat rows of 200 to 2,000 characters, about 1 in 4 of them with several turns."""
    draw, size = random.Random(seed), 0
    words = ["every", "Monday", "at", "noon", "späť", "毎日", "cron", "\\n", "5", "the"]
    with open(path, "w", encoding="utf-8") as out:
        while size < megabytes * 1e6:
            turns = draw.choice((2, 2, 2, 4))
            row = {"messages": [
                {"role": ("user", "assistant")[turn % 2],
                 "content": " ".join(draw.choices(words, k=draw.randint(20, 100)))}
                for turn in range(turns)]}
            line = json.dumps(row, ensure_ascii=False) + "\n"
            size += len(line.encode())
            out.write(line)


def measure(megabytes, readers=tuple(READERS)) -> list:
    """One dict a reader: rows, seconds, peak bytes, bytes of cache, and the last row it gives."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chat.jsonl")
        make(path, megabytes)
        for reader in readers:
            home = Path(folder, "home")
            home.mkdir()
            body = textwrap.dedent(READERS[reader])
            answer = subprocess.run(
                [sys.executable, "-c", MEASURED.format(body=body), str(path)], check=True,
                capture_output=True, text=True, env=os.environ | {
                    "HF_HOME": str(home), "TMPDIR": str(home), "HF_HUB_OFFLINE": "1"})
            rows, seconds, peak, last = json.loads(answer.stdout)
            cache = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
            results.append({"reader": reader, "source": path.stat().st_size, "rows": rows,
                            "seconds": seconds, "peak": peak, "cache": cache, "last": last})
            shutil.rmtree(home)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=200)
    results = measure(parser.parse_args().megabytes)
    print(f"{'reader':<14}{'rows':>9}{'source MB':>11}{'seconds':>9}{'peak MB':>9}{'cache MB':>10}")
    for row in results:
        print(f"{row['reader']:<14}{row['rows']:>9,}{row['source'] / 1e6:>11.0f}"
              f"{row['seconds']:>9.1f}{row['peak'] / 1e6:>9.0f}{row['cache'] / 1e6:>10.0f}")


if __name__ == "__main__":
    main()
