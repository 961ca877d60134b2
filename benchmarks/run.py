"""`python benchmarks/run.py [--only a,b,...] [--out FILE.json]`: measure, print tables, write JSON."""

import argparse
import importlib
import json
import time
from pathlib import Path

import torch
from common import real_images
from timing import hardware, table, versions

QUESTIONS = {
    "a": "step_overhead",
    "b": "versus_lightly",
    "c": "views_per_image",
    "d": "votes_vs_faiss",
    "e": "updates",
    "f": "growth",
    "g": "input_pipeline",
    "h": "two_processes",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(QUESTIONS), help="questions to ask, for example a,d")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    unknown = [letter for letter in chosen.only if letter not in QUESTIONS]
    if unknown:
        parser.error(f"--only {','.join(unknown)} is not known; choose from {','.join(QUESTIONS)}.")
    return chosen


def main() -> None:
    chosen, start = arguments(), time.perf_counter()
    torch.manual_seed(0)
    report = {"date": time.strftime("%Y-%m-%d %H:%M %z"), "hardware": hardware(), "versions": versions()}
    report |= {"images": real_images().provenance, "questions": {}}
    print(json.dumps(report["hardware"]), report["images"], sep="\n")
    for letter in chosen.only:
        question = importlib.import_module(QUESTIONS[letter])
        print(f"\n{question.__doc__.splitlines()[0]}", flush=True)
        rows = question.measure()
        print(table(rows), flush=True)
        report["questions"][letter] = {"file": f"{QUESTIONS[letter]}.py", "rows": rows}
    report["seconds"] = round(time.perf_counter() - start, 1)
    chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{report['seconds']:.0f} s; written to {chosen.out}")


if __name__ == "__main__":
    main()
