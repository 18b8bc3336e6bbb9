"""What does one give up with a single network? Size, latency and validation Dice of everything a run can export.

    python benchmarks/export_table.py runs/a DATA --out export_table

writes export_table.md and export_table.json. The Dice is that of the exported files, run through onnxruntime.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from knowsam.data.dataset import ScoringVolume, scoring_volumes
from knowsam.data.discover import discover_coding
from knowsam.data.folder import scan_folder
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ValidationScores, score_volumes
from knowsam.inference.export import export, select_network
from knowsam.inference.onnx import OnnxStudent
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, find_student, load_student
from knowsam.storage import write_json, write_text

NETWORKS = ("fused", "unet", "vnet")
WARM_UP = 3

Network = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", type=Path, help="data folder; the run's split names the validation images")
    parser.add_argument("--out", type=Path, required=True, help="name without suffix")
    parser.add_argument("--repeats", type=int, default=50, help="timed predictions of each")
    arguments = parser.parse_args()
    source = find_student(arguments.run)
    student, info = load_student(source)
    available = [name for name in NETWORKS if has_network(student, info, name, source)]
    with TemporaryDirectory() as folder:
        files = {name: export(arguments.run, Path(folder) / name / "model.onnx", name) for name in available}
        latency = measure_latency({name: item.path for name, item in files.items()}, source, info, arguments.repeats)
        students = {name: OnnxStudent(item.path) for name, item in files.items()}
        volumes = validation_volumes(arguments.run, arguments.data, info)
        scored = score_volumes(lambda x: {n: s(x) for n, s in students.items()}, volumes, len(info.class_names))
        scores = ValidationScores.of(list(scored))
        rows = {
            name: {"file_mb": item.path.stat().st_size / 1e6, "parameters": item.parameters,
                   "largest_difference": item.verification.largest, "latency_ms": latency[name],
                   "dice": scores.to_json()[name]}
            for name, item in files.items()
        }  # fmt: skip
    report = {"size": info.preprocessing.size, "volumes": len(volumes), "machine": machine(), "networks": rows}
    write_json(arguments.out.with_suffix(".json"), report)
    write_text(arguments.out.with_suffix(".md"), table(rows, scores))
    print(table(rows, scores), end="")


def has_network(student: torch.nn.Module, info: StudentInfo, name: str, path: Path) -> bool:
    try:
        select_network(student, info, name, path)
    except InputError:
        return False
    return True


def measure_latency(files: dict[str, Path], source: Path, info: StudentInfo, repeats: int) -> dict[str, Any]:
    """Milliseconds of one prediction, batch 1, by network, runtime and number of threads.

    All take turns, so that whatever else the machine does disturbs all alike.
    """
    image = torch.rand(1, info.preprocessing.channels, *info.preprocessing.size)
    results: dict[str, Any] = {name: {} for name in files}
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        contenders: dict[tuple[str, str], Network] = {}
        for name, path in files.items():
            student, _ = load_student(source)
            part = select_network(student, info, name, source)[1]
            contenders[name, "onnxruntime"] = OnnxStudent(path, threads).probabilities
            contenders[name, "torch"] = eager(part)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
        for repeat in range(WARM_UP + repeats):
            for key, network in contenders.items():
                started = time.perf_counter()
                network(image)
                if repeat >= WARM_UP:
                    times[key].append(1000 * (time.perf_counter() - started))
        for (name, runtime), values in times.items():
            low, median, high = np.percentile(values, (10, 50, 90))
            results[name][f"{runtime}, {threads} thread{'s' * (threads > 1)}"] = {
                "median": median,
                "p10": low,
                "p90": high,
            }
    return results


def eager(network: torch.nn.Module) -> Network:
    """The network as `knowsam predict` runs it."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(image: Tensor) -> Tensor:
        return network(image.contiguous(memory_format=torch.channels_last)).softmax(dim=1)

    return predict


def validation_volumes(run: Path, data: Path, info: StudentInfo) -> list[ScoringVolume]:
    cases = scan_folder(data).cases
    folder = RunFolder(run)
    config = folder.read_config().data
    validation = [cases[stem] for stem in Split.read(folder.split).val]
    coding = discover_coding(validation, config.label_spec._replace(classes=list(info.class_names))).coding
    return list(scoring_volumes(validation, info.preprocessing, coding))


def machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_average_at_end": os.getloadavg()[0],
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def table(rows: dict[str, Any], scores: ValidationScores) -> str:
    """Markdown: a line per network; latencies as median (10th to 90th percentile)."""
    kinds = list(next(iter(rows.values()))["latency_ms"])
    header = ["network", "Dice", "file, MB", *[f"{kind}, ms" for kind in kinds]]
    lines = [header, ["---"] * len(header)]
    for name, row in rows.items():
        over_volumes = np.std(np.mean(list(scores.per_volume[name].values()), axis=1), ddof=1)
        latencies = [f"{t['median']:.1f} ({t['p10']:.1f} to {t['p90']:.1f})" for t in row["latency_ms"].values()]
        lines.append([name, f"{row['dice']['dice']:.3f} ± {over_volumes:.3f}", f"{row['file_mb']:.1f}", *latencies])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
