"""One site: it trains on its own images, and answers with what may leave it."""

from __future__ import annotations

import copy
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knowsam.config import Config
from knowsam.data.dataset import SliceStore, scoring_volumes
from knowsam.data.discover import FoundCoding
from knowsam.data.volumes import KnownMaps
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ValidationScores, score_volumes
from knowsam.federation.messages import WEIGHTS, Message, named
from knowsam.federation.plan import Plan, SitePlan, site_images
from knowsam.federation.public import SLICES_AT_ONCE, JoinedSlices, PublicSet, learn_on_public
from knowsam.federation.state import load_shared, shared_state
from knowsam.functional.agreement import pack_answer
from knowsam.functional.federation import foreground_dice
from knowsam.inference.forward import predict_all
from knowsam.methods import load_method
from knowsam.networks.registry import build_network
from knowsam.reporting.write import write_report
from knowsam.runs.cases import RunCases, cases_of
from knowsam.runs.checkpoint import read_progress
from knowsam.runs.device import resolve_device
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from knowsam.sam.loading.report import require_same_base
from knowsam.training.build import build_method
from knowsam.training.data import RunData, choose_flip, class_shares, plan_split, require_same_files
from knowsam.training.state import load_trained_state
from knowsam.training.trainer import Trainer
from knowsam.training.validate import score_network

START_FILE = "start.safetensors"
"""The server's first message, for a client of an engine that is started again."""


class Site:
    """A site in its own folder, `sites/NAME` of the federation's in a simulation.

    Its folder is that of a run: `knowsam predict` takes the network that its own validation cases chose.

    Attributes:
        data: What it trains and validates on.
        folder: Its files.

    Args:
        plan: The federation.
        name: Which of its sites.
        start: What the server sends once.
        out: Its folder.
        quiet: No text.

    Raises:
        InputError: For bad data, or a folder of another run.
    """

    def __init__(self, plan: Plan, name: str, start: Message, out: Path, quiet: bool = True) -> None:
        self.plan, self.site, self.start = plan, plan.site(name), start
        self.folder, self.quiet = RunFolder(out), quiet
        self.public = PublicSet.from_message(start)
        self.different = plan.different
        self.config = site_config(plan, self.site, start)
        self.data = read_site(self.config, self.public)
        self.trainer: Trainer | None = None
        self.global_network = build_network(**start.values["network"]) if self.different else None
        if not any(path.exists() for path in (self.folder.config, self._answers, out / START_FILE)):
            self.folder.check_free()
        require_same_files(self.folder, self.data)
        self._ask()

    @classmethod
    def begin(cls, plan: Plan, name: str, start: Message | None, out: Path) -> Site:
        """As an engine begins it: with the server's first message, or with the one that is kept since then.

        Raises:
            InputError: There is neither.
        """
        kept = out / START_FILE
        if start is not None:
            site = cls(plan, name, start, out)
            site.folder.path.mkdir(parents=True, exist_ok=True)
            start.write(kept)
            return site
        if not kept.exists():
            raise InputError(f"{kept}: no such file was found, but expected it of a site that has begun; restore it.")
        return cls(plan, name, Message.read(kept), out)

    @property
    def images(self) -> int:
        """Number of its own training slices, n_c of FedAvg."""
        unlabelled = self.data.unlabelled
        without = len(self.data.split.unlabelled) if unlabelled is None else len(unlabelled)
        return len(self.data.labelled) - len(self.public) + without

    def round(self, message: Message) -> Message:
        """Receive the global network, score it, and train from it; in the message after the last round, score alone.

        Args:
            message: `round`, from 0, and `weights.*`.

        Returns:
            Counters and Dice, and what of its network may leave it.
        """
        began, number = time.perf_counter(), int(message.values["round"])
        trainer = self._trainer_at(number)
        network = self._receive(trainer, message)
        values: dict[str, Any] = {"round": number, "images": self.images, "cases": len(self.data.validation)}
        values["global"] = self._score(network, trainer)
        tensors: dict[str, Tensor] = {}
        if number == self.plan.rounds:
            self.report()
        else:
            self._train(trainer, number)
            values["own"] = trainer.validate().mean() if self.data.validation else None
            self._keep(trainer)
            if self.different:
                trainer.method.eval()
                tensors = {"public_logits": self.public.logits(trainer.student())}
            else:
                tensors = named(WEIGHTS, shared_state(trainer.method, self.plan.local_norm))
        values["seconds"] = round(time.perf_counter() - began, 2)
        return Message(values, tensors)

    def report(self) -> None:
        """Write the page about its own network, with pictures of its own images, beside its files."""
        student = load_student(self.folder.student)[0]
        forward = partial(predict_all, student)
        scored = list(score_volumes(forward, self.data.validation, self.data.coding.classes))
        write_report(self.folder.path, scored=(self.data.cases, scored))

    def _receive(self, trainer: Trainer, message: Message) -> nn.Module:
        """Take the global network over, as this site's own where they are alike, and return it."""
        method, state = trainer.method, message.part(WEIGHTS)
        if self.global_network is None:
            load_shared(method, state, self.plan.local_norm)
            network: nn.Module = method.student()
        else:
            self.global_network.load_state_dict(state)
            network = self.global_network.to(trainer.accelerator.device).eval()
        method.follow(copy.deepcopy(network))
        return network

    def _train(self, trainer: Trainer, number: int) -> None:
        if self.global_network is not None:
            teacher, student = self.global_network, trainer.method.student()

            def answer(chosen: Tensor, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
                with torch.no_grad():
                    logits = teacher(image)
                return logits, foreground_dice(logits, label)

            learn_on_public(student, self.public, answer, self.config, self.plan.public_epochs, trainer.position)
        trainer.log.start(trainer.position, tensorboard=False)
        end = (number + 1) * self.plan.steps
        for position in range(trainer.position, end):
            output = trainer.step(trainer.batches[position])
            if trainer.position % self.config.train.log_every == 0 or trainer.position == end:
                trainer.record(output)

    def _score(self, network: nn.Module, trainer: Trainer) -> float | None:
        """Mean validation Dice of a network here; None without validation cases."""
        if not self.data.validation:
            return None
        classes, device = self.data.coding.classes, trainer.accelerator.device
        position = trainer.position
        scored = score_network(network, None, self.data.validation, classes, device, trainer.display, position)
        return ValidationScores.of(scored).mean()

    @property
    def _before(self) -> Path:
        """The checkpoint of the round before, for a round that is repeated."""
        return self.folder.path / "checkpoint_before.pt"

    def _keep(self, trainer: Trainer) -> None:
        if self.folder.checkpoint.exists():
            os.replace(self.folder.checkpoint, self._before)
        trainer.save()

    def _trainer_at(self, number: int) -> Trainer:
        """The trainer as it was before a round: the one at hand, or from its checkpoint where a round is repeated.

        A site that was away for some rounds goes on from its last one.
        """
        wanted = number * self.plan.steps
        if self.trainer is not None and self.trainer.position == wanted:
            return self.trainer
        self._restore(wanted)
        # Free or its own, as was checked: without a checkpoint it begins.
        trainer = Trainer(self.config, self.folder, resume=True, quiet=self.quiet, data=self.data)
        trainer.position = wanted
        self.trainer = trainer
        return trainer

    def _restore(self, wanted: int) -> None:
        """Put the newest checkpoint of at most so many steps in its place."""
        steps = {path: read_progress(path).step for path in (self.folder.checkpoint, self._before) if path.exists()}
        fitting = [path for path, step in steps.items() if step <= wanted]
        if fitting:
            newest = max(fitting, key=steps.__getitem__)
            if newest != self.folder.checkpoint:
                os.replace(newest, self.folder.checkpoint)
        elif wanted == 0:
            for path in (*steps, self.folder.student_last):
                path.unlink(missing_ok=True)
        elif steps:
            raise InputError(
                f"{self.folder.checkpoint}: step {min(steps.values())} was found, but the federation is at {wanted};"
                " restore the folder, or begin the federation anew in an empty one."
            )

    @property
    def _answers(self) -> Path:
        return self.folder.path / "answers.safetensors"

    def _ask(self) -> None:
        """Have SAM's answers for every unlabelled slice: from their file, or asked here, once in a whole run."""
        store = self.data.unlabelled
        if store is None or not self.start.part("start"):
            return
        names = [store.name(index) for index in range(len(store))]
        if self._answers.exists():
            kept = Message.read(self._answers)
            if kept.values["names"] != names:
                raise InputError(
                    f"{self._answers}: SAM's answers to other images than those of {self.site.folder} were found, but"
                    " expected the same; restore them, or begin the federation anew in an empty folder."
                )
            maps = kept.tensors["answers"]
        else:
            maps = ask_teacher(self.plan, self.start, store)
            self.folder.path.mkdir(parents=True, exist_ok=True)
            Message({"names": names}, {"answers": maps}).write(self._answers)
        self.data.answers = KnownMaps(names, maps)


def site_config(plan: Plan, site: SitePlan, start: Message) -> Config:
    """Of a site's run: with the global network's architecture, where it is another one."""
    config = plan.site_config(site)
    if plan.different and "global_network" in load_method(config.method).Options.model_fields:
        options = {**config.options, "global_network": start.values["network"]}
        return config.model_copy(update={"options": options})
    return config


def read_site(config: Config, public: PublicSet) -> RunData:
    """Read a site's images, as the public set says that they become network input.

    A mask of another value than the public ones is an error; classes may be missing.

    Raises:
        InputError: For bad data.
    """
    folder, split = plan_split(config, needs_labels=False)
    site_images(folder, split.labelled, split.unlabelled)
    coding, preprocessing, memory = public.coding, public.preprocessing, config.data.cache_mb
    own = SliceStore(cases_of(folder, split.labelled), preprocessing, coding, memory)
    own.fill()
    unlabelled = None
    if split.unlabelled and load_method(config.method).uses_unlabelled:
        unlabelled = SliceStore(cases_of(folder, split.unlabelled), preprocessing, None, memory)
        unlabelled.fill()
    pixels = sum((np.bincount(label[label >= 0], minlength=coding.classes) for label in own.labels()),
                 np.zeros(coding.classes, dtype=np.int64))  # fmt: skip
    shapes = [tuple(preprocessing.size)] * len(own)
    flip, notes = choose_flip(config.train.flip, public, coding)
    validation = list(scoring_volumes(cases_of(folder, split.val), preprocessing, coding))
    return RunData(
        RunCases(folder, split, FoundCoding(coding, [], pixels, shapes)),
        preprocessing,
        JoinedSlices(public, own) if len(own) else public,
        unlabelled,
        validation,
        class_shares(public, coding.classes) if config.train.class_prior else None,
        flip,
        notes,
    )


def ask_teacher(plan: Plan, start: Message, store: SliceStore) -> Tensor:
    """SAM's answer to every slice, prompted with the mask of the network that began with it, `(N, H, W)` packed."""
    config, values = plan.config(), start.values
    config = config.model_copy(update={"sam": config.sam.model_copy(update=values["sam"])})
    public = PublicSet.from_message(start)
    method = build_method(config, public.preprocessing.in_channels, public.coding.classes)
    assert method.sam is not None  # the server has sent its weights
    require_same_base(values["base"], method.sam.teacher.base, Path("the server's SAM"))
    load_trained_state(method, start.part("start"), Path("the server's message"))
    device = resolve_device()
    method.to(device).eval()
    answers = []
    with torch.inference_mode():
        for first in range(0, len(store), SLICES_AT_ONCE):
            indices = range(first, min(first + SLICES_AT_ONCE, len(store)))
            image = torch.stack([store[index][0] for index in indices]).to(device)
            logits = method.sam.predict(image, method.student()(image))
            answers.append(pack_answer(logits.float().softmax(dim=1)).cpu())
    return torch.cat(answers)
