"""Does a federation help? Local training, FedAvg, SAM-Fed with each rule, and everything in one place, over seeds.

Sites are the kinds of image of dsb2018 (`nuclei`), or Kvasir and ClinicDB (`polyps`), without a mask; the public set
is drawn from all of them. Each site keeps test images aside; a network is scored on those of every site. Nothing
validates: the last network counts. Interrupted, the command goes on; at its end it prints a table.

    python benchmarks/federation.py DATA --out fed [--sets nuclei,polyps] [--seeds 0,1] [--arms fedavg,adaptive]
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import knowsam
from knowsam.presentation.markdown import table
from knowsam.storage import read_json, write_json

RULES = ("adaptive", "teacher", "local", "intersection")
ARMS = ("public", "alone", "fedavg", *RULES, "central", "ceiling")
WORDS = {
    "public": "public set alone, supervised",
    "alone": "each site alone, mean_teacher",
    "fedavg": "FedAvg, mean_teacher",
    "central": "images in one place, sam_fed, adaptive",
    "ceiling": "images and masks in one place, supervised",
} | {rule: f"sam_fed, {rule}" for rule in RULES}
SETS = ("nuclei", "polyps")
SETTINGS = {"data.val_fraction": 0.0, "data.channels": 3, "preset": "short"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of dsb2018, kvasir, clinicdb")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--public", type=int, default=50, help="labelled public images")
    parser.add_argument("--test", type=int, default=60, help="most test images of a site; at most a quarter of it")
    parser.add_argument("--most", type=int, default=300, help="most training images of a site")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of a site in a round")
    parser.add_argument("--start-steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", default="4+4")
    parser.add_argument("--sam", default="tiny")
    given = parser.parse_args()
    for name in given.sets.split(","):
        results: dict[str, Any] = {}
        for seed in map(int, given.seeds.split(",")):
            folder = given.out / name / str(seed)
            sites = prepare(given, name, seed, folder / "data")
            for arm in given.arms.split(","):
                results.setdefault(arm, []).append(do_arm(given, arm, seed, folder, sites))
        print(f"\n{name}: mean Dice of {len(given.seeds.split(','))} draws of {given.public} public images\n")
        print(markdown(results))


def read_sites(data: Path, name: str) -> dict[str, list[tuple[Path, Path]]]:
    """Site -> image and mask files."""
    if name == "nuclei":
        with (data / "dsb2018" / "images.csv").open() as file:
            kind = {row["stem"]: row["type"] for row in csv.DictReader(file)}
        pairs = pair(data / "dsb2018")
        sites: dict[str, list[tuple[Path, Path]]] = {}
        for image, mask in pairs:
            sites.setdefault(kind[image.stem], []).append((image, mask))
        return sites
    return {"kvasir": pair(data / "kvasir"), "clinicdb": pair(data / "clinicdb")}


def pair(folder: Path) -> list[tuple[Path, Path]]:
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    return [(image, masks[image.stem]) for image in sorted((folder / "images").iterdir()) if image.stem in masks]


def prepare(given: argparse.Namespace, name: str, seed: int, out: Path) -> list[str]:
    """Draw public, training and test images; links, not copies. Frames of a video lie together, so blocks are drawn."""
    sites = read_sites(given.data, name)
    if (out / "done").exists():
        return list(sites)
    shutil.rmtree(out, ignore_errors=True)
    total = sum(map(len, sites.values()))
    for number, (site, pairs) in enumerate(sites.items()):
        test = min(given.test, len(pairs) // 4)
        start = int(np.random.default_rng((seed, number)).integers(len(pairs)))
        turned = pairs[start:] + pairs[:start]
        rest = turned[test:]
        order = np.random.default_rng((seed, number, 1)).permutation(len(rest))
        shared = max(1, round(given.public * len(pairs) / total))
        public, own = order[:shared], order[shared : shared + given.most]
        for image, mask in turned[:test]:
            link(image, out / "test" / site / "images")
            link(mask, out / "test" / site / "masks")
        for index in public:
            link(rest[index][0], out / "public" / "images", f"{site}_")
            link(rest[index][1], out / "public" / "masks", f"{site}_")
        for index in own:
            link(rest[index][0], out / site / "images")
            link(rest[index][0], out / "all" / "images", f"{site}_")
            for part in ("images", "masks"):
                link(rest[index][part == "masks"], out / "labelled" / part, f"{site}_")
    (out / "done").touch()
    return list(sites)


def link(path: Path, folder: Path, before: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.symlink(path.resolve(), folder / f"{before}{path.name}")


def do_arm(given: argparse.Namespace, arm: str, seed: int, folder: Path, sites: list[str]) -> dict[str, Any]:
    """Train one arm and score it on every site's test images, or read what was scored before."""
    data, done = folder / "data", folder / arm / "result.json"
    if done.exists():
        return read_json(done, "delete it")
    began = time.perf_counter()
    each = {site: data / site for site in sites}
    steps = given.steps * len(sites)
    used: dict[str, Path] = {}
    if arm == "alone":
        for site in sites:
            used[site] = folder / arm / site
            federate(given, seed, data, used[site], {site: each[site]}, "mean_teacher", "none", given.steps)
    else:
        run = folder / arm / "run"
        if arm in ("public", "ceiling"):
            supervised(given, seed, run, data, arm, given.start_steps + given.rounds * steps)
        elif arm == "central":
            federate(given, seed, data, run, {"all": data / "all"}, "sam_fed", given.sam, steps)
        elif arm == "fedavg":
            federate(given, seed, data, run, each, "mean_teacher", "none", given.steps)
        else:
            federate(given, seed, data, run, each, "sam_fed", given.sam, given.steps, {"options.agreement": arm})
        used = dict.fromkeys(sites, run)
    dice = {site: score(used[site], data / "test" / site, folder / arm / "predicted" / site) for site in sites}
    result = {"dice": dice, "seconds": round(time.perf_counter() - began), "megabytes": sent(used[sites[0]])}
    write_json(done, result)
    return result


def federate(
    given: argparse.Namespace, seed: int, data: Path, out: Path, sites: dict[str, Path], method: str, sam: str,
    steps: int, more: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    done = knowsam.federate(
        data / "public", out, dict(sites), method=method, sam=sam, rounds=given.rounds, steps=steps,
        start_steps=given.start_steps, size=given.size, batch=given.batch, seed=seed,
        settings=SETTINGS | (more or {}),
    )  # fmt: skip
    if done is None or not done.finished:
        raise SystemExit(130)


def supervised(given: argparse.Namespace, seed: int, out: Path, data: Path, arm: str, steps: int) -> None:
    """The baseline on the public set, or the ceiling: these and the sites' images, all with masks."""
    source = data / "public"
    if arm == "ceiling":
        source = data / "ceiling"
        for part in ("images", "masks"):
            for path in [*(data / "labelled" / part).iterdir(), *(data / "public" / part).iterdir()]:
                if not (source / part / path.name).is_symlink():
                    link(path, source / part)
    if (out / "config.yaml").exists():
        shutil.rmtree(out)  # it takes a minute; a federation goes on by itself
    run = knowsam.train(
        source, out, method="supervised", sam="none", size=given.size, steps=steps, batch=given.batch, seed=seed,
        settings=SETTINGS | {"train.report": False},
    )  # fmt: skip
    if not run.finished:
        raise SystemExit(130)


def score(run: Path, test: Path, out: Path) -> float:
    knowsam.predict(run / "student_last.safetensors", test / "images", out)
    return float(knowsam.evaluate(out, test / "masks", stray_share=1.0).summary.mean["dice"])


def sent(run: Path) -> float:
    """What all sites of a federation have sent and received, in MB; 0 for a plain training."""
    from knowsam.runs.folder import RunFolder

    rounds = [one["sites"] for one in RunFolder(run).read_metrics() if "sites" in one]
    return round(sum(site["sent"] + site["received"] for one in rounds for site in one.values()) / 1e6, 1)


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    sites = list(next(iter(results.values()))[0]["dice"])
    rows = []
    for arm, draws in results.items():
        by_site = np.array([[one["dice"][site] for site in sites] for one in draws])
        means = by_site.mean(axis=1)
        spread = f"{means.mean():.3f} ({', '.join(f'{value:.3f}' for value in means)})"
        megabytes, seconds = (np.mean([one[name] for one in draws]) for name in ("megabytes", "seconds"))
        rows.append([WORDS[arm], *(f"{value:.3f}" for value in by_site.mean(axis=0)), spread, f"{megabytes:.0f}",
                     f"{seconds:.0f}"])  # fmt: skip
    return table(["arm", *sites, "mean (draws)", "MB", "s"], rows, numbers=range(1, len(sites) + 4))


if __name__ == "__main__":
    main()
