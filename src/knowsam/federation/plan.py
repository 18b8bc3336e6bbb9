"""What a federation is: its sites, its rounds, and the configuration of each of its networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from knowsam.config import Config, merge_layers, resolve_config
from knowsam.data.folder import Case, DataFolder
from knowsam.data.preprocess import preprocessing_of
from knowsam.errors import InputError
from knowsam.io import read_image
from knowsam.methods import Method, load_method
from knowsam.plugins import absolute
from knowsam.runs.cases import cases_of
from knowsam.sam.loading.build import AUTO, settled_name
from knowsam.training.data import plan_split

PLAN_FILE, SITES = "federation.json", "sites"
"""In the folder of a federation: what was asked for, and the folders of its sites."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
RESERVED = "server"
"""NVFlare's name of the server among those of the sites."""
LOOKED_AT = 8
"""Images of a site that are read to see whether they have colour."""
NETWORK_OPTIONS = ("network", "network_arguments", "standardise")
"""Options by which a site's network may differ from the global one."""
OWN_SETTINGS = {
    "train.steps": "--steps of a round and --rounds",
    "train.pretrain": "--start-steps on the public set",
    "train.ema": "nothing: the global network is the sites' average",
    "train.validate_every": "nothing: every round is validated",
    "train.checkpoint_every": "nothing: every round is saved",
    "train.distil": "nothing: distil the finished run with `knowsam distil`",
}
"""Settings that a federation has in another form -> what it expects."""


@dataclass(frozen=True)
class SitePlan:
    """One site.

    Attributes:
        name: As its user calls it.
        folder: Its data folder, on its own machine.
        index: Its place in the order of the sites; its seed is so much larger.
        settings: Settings of its own, nested.
    """

    name: str
    folder: str
    index: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A federation.

    Attributes:
        public: The folder whose masks everybody learns from, on the server.
        sites: In order.
        settings: Settings of all networks, nested.
        rounds: How often the sites' networks become one.
        steps: Optimiser steps of a site in a round.
        start_steps: Steps on the public set before the first round: the global network begins, and SAM learns.
        public_epochs: Where networks differ: passes over the public images by which the global one learns from the
            sites' answers, and as many by which each site learns from it.
        local_norm: Batch-norm statistics stay at their site.
        min_sites: How many sites a round needs; 0: all. Only an engine of several machines asks.
        patience: Seconds that a round waits for the others when as many have answered.
    """

    public: str
    sites: tuple[SitePlan, ...]
    settings: dict[str, Any]
    rounds: int = 50
    steps: int = 20
    start_steps: int = 200
    public_epochs: int = 4
    local_norm: bool = False
    min_sites: int = 0
    patience: int = 600

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file or a message."""
        values = asdict(self)
        return {**values, "sites": list(values["sites"])}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Inverse of `to_json`."""
        return cls(**{**values, "sites": tuple(SitePlan(**site) for site in values["sites"])})

    def site(self, name: str) -> SitePlan:
        """The site of this name."""
        return next(site for site in self.sites if site.name == name)

    @property
    def method(self) -> type[Method]:
        """The class of the method that the sites train."""
        return load_method(self.config().method)

    def config(self) -> Config:
        """Of the global network, as if the public set were a site: what the run's folder records."""
        return self._config(self.settings, {"data": {"path": self.public}})

    def start_config(self) -> Config:
        """Of the training on the public set before the first round."""
        steps = {"train": {"steps": max(1, self.start_steps), "ema": 0.0, "report": False}}
        layers = {"data": {"path": self.public}, "preset": self.config().preset}
        return resolve_config(self.settings, layers, steps)

    def site_config(self, site: SitePlan) -> Config:
        """Of one site; its folder decides who is labelled there, and its SAM has answered before, if it can."""
        seed = {"train": {"seed": self.config().train.seed + site.index}}
        own = {"data": {"path": site.folder, "labelled": site.settings.get("data", {}).get("labelled")}}
        shared = self.settings
        if "network" in site.settings.get("options", {}):
            # Arguments of the common network are none of another one.
            options = shared.get("options", {})
            shared = shared | {"options": {key: options[key] for key in options if key != "network_arguments"}}
        config = self._config(shared, site.settings, seed, own)
        return config if not self.method.answered_once else _without_sam(config)

    def global_config(self) -> Config:
        """As of a site, for the global network itself."""
        return self.config() if not self.method.answered_once else _without_sam(self.config())

    def _config(self, *layers: Mapping[str, Any]) -> Config:
        train = {"steps": self.rounds * self.steps, "pretrain": 0.0, "ema": 0.0, "validate_every": self.steps}
        merged = merge_layers(*layers)
        options = load_method(str(merged.get("method"))).Options.model_fields
        rounds = {"options": {"rounds": self.rounds}} if "rounds" in options else {}
        return resolve_config(merged, {"train": {**train, "report": False}}, rounds)

    def differs(self, site: SitePlan) -> bool:
        """Whether a site has another network than the global one."""
        shared, own = self.config().options, self.site_config(site).options
        return any(shared.get(name) != own.get(name) for name in NETWORK_OPTIONS)

    @property
    def different(self) -> bool:
        """Whether networks differ, so that answers to public images are sent in place of weights."""
        return any(self.differs(site) for site in self.sites)


def _without_sam(config: Config) -> Config:
    return config.model_copy(update={"sam": config.sam.model_copy(update={"name": "none"})})


def make_plan(public: str | Path, sites: Mapping[str, str | Path], settings: Mapping[str, Any], **numbers: Any) -> Plan:
    """Put a federation together; opens no image.

    Args:
        public: The public labelled folder.
        sites: Name -> folder.
        settings: Nested settings of all; those of one site under `sites.NAME`.
        **numbers: As the attributes of `Plan`, those that were given.

    Raises:
        InputError: For bad names, numbers or settings.
    """
    shared = dict(settings)
    own = shared.pop("sites", {})
    for name in sites:
        if not NAME.fullmatch(name) or name == RESERVED:
            raise InputError(
                f"--site: the name '{name}' was found, but expected letters, digits, - and _, and not {RESERVED};"
                " choose another."
            )
    if not sites:
        raise InputError("--site: none was given, but expected at least one, as NAME=FOLDER; add it.")
    if unknown := sorted(own.keys() - sites.keys()):
        raise InputError(f"sites.{unknown[0]}: no such site was given, but expected one of {', '.join(sites)}.")
    for name, least in {
        "rounds": 1,
        "steps": 1,
        "start_steps": 0,
        "public_epochs": 1,
        "min_sites": 0,
        "patience": 0,
    }.items():
        if numbers.get(name, least) < least:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: {numbers[name]} was found, but expected a number from {least}; correct it.")
    if numbers.get("min_sites", 0) > len(sites):
        raise InputError(f"--min-sites: {numbers['min_sites']} was found, but expected at most {len(sites)}; lower it.")
    for layer in (shared, *own.values()):
        _refuse_own_settings(layer)
    shared["method"] = absolute(str(shared.get("method", "sam_fed")))
    sam = shared.get("sam") or {}
    sam = {"name": sam} if isinstance(sam, str) else sam
    # What `auto` means here, it means at every site.
    shared["sam"] = {**sam, "name": settled_name(sam.get("name", AUTO))}
    planned = tuple(
        SitePlan(name, str(Path(folder).resolve()), index, dict(own.get(name, {})))
        for index, (name, folder) in enumerate(sites.items())
    )
    plan = Plan(str(Path(public).resolve()), planned, shared, **numbers)
    for site in plan.sites:
        plan.site_config(site)
    return plan


def _refuse_own_settings(settings: Mapping[str, Any]) -> None:
    for name, expected in OWN_SETTINGS.items():
        section, key = name.split(".")
        if key in (settings.get(section) or {}):
            raise InputError(f"{name}: it was given, but a federation expected {expected}; leave it out.")


def check_folders(plan: Plan) -> None:
    """Look into every folder before anything is written.

    Raises:
        InputError: A folder is missing or has no image, the public set has no mask, a site's images have another
            number of channels.
    """
    config = plan.config()
    folder, split = plan_split(config)
    channels = _channels(cases_of(folder, split.labelled), config)
    for site in plan.sites:
        own = plan.site_config(site)
        found, site_split = plan_split(own, needs_labels=False)
        training = site_images(found, site_split.labelled, site_split.unlabelled)
        if config.data.channels is None and (there := _channels(training[:LOOKED_AT], own)) != channels:
            raise InputError(
                f"{site.folder}: images of {there} {'channel' if there == 1 else 'channels'} were found at site"
                f" {site.name}, but expected {channels} as in {plan.public}; convert them, or set data.channels."
            )


def site_images(folder: DataFolder, labelled: Sequence[str], unlabelled: Sequence[str]) -> list[Case]:
    """The images that a site trains on.

    Raises:
        InputError: There are none.
    """
    cases = cases_of(folder, [*labelled, *unlabelled])
    if not cases:
        raise InputError(
            f"{folder.root}: no image to train on was found, but expected at least one outside validation and test;"
            " add images, or leave the site out."
        )
    return cases


def _channels(cases: Sequence[Case], config: Config) -> int:
    return preprocessing_of((read_image(case.image) for case in cases), config.data.size, config.data.channels)[
        0
    ].channels
