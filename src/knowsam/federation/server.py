"""The server: it begins on the public set, makes one network of the sites' answers, and writes the run's folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsam import __version__
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ScoredVolume, ValidationScores
from knowsam.federation.messages import WEIGHTS, Message, named
from knowsam.federation.plan import PLAN_FILE, Plan
from knowsam.federation.public import PublicSet, learn_on_public, renew_statistics
from knowsam.federation.state import load_shared, shared_state
from knowsam.functional.federation import best_answers, fedavg
from knowsam.methods import Method
from knowsam.reliability.of_run import write_calibration
from knowsam.runs.checkpoint import load_checkpoint, read_progress, save_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, save_student
from knowsam.sam.loading.report import base_record
from knowsam.storage import read_json, write_json
from knowsam.training.build import build_method, record_sam_choices
from knowsam.training.data import load_data, plan_split, require_same_files
from knowsam.training.display import TrainingDisplay
from knowsam.training.state import load_trained_method, load_trained_state, trained_state
from knowsam.training.trainer import Trainer
from knowsam.training.validate import score_network
from knowsam.types import SAM

STATE_FILE = "federation.pt"


class Server:
    """What all sites have in common, and the federation's folder.

    The folder is that of a run on the public set, with a line of `metrics.jsonl` per round: `knowsam predict` takes the
    global network of the round that was best at the sites (without validation cases there: on the public ones, or the
    last). Beside these files are `federation.json`, the plan, and `federation.pt`, to go on from.

    Attributes:
        round: The next one, from 0; `plan.rounds` is the last scoring, one more is the end.
        method: The global network.

    Args:
        plan: The federation.
        out: Its folder.
        quiet: No progress bar, no text.
    """

    def __init__(self, plan: Plan, out: Path, quiet: bool = False) -> None:
        self.plan, self.folder, self.quiet = plan, RunFolder(out), quiet
        self.display = TrainingDisplay(quiet=True)
        self.round = 0
        self.best: float | None = None
        self.method: Method

    def check_folder(self) -> bool:
        """Whether this very federation has begun here.

        Raises:
            InputError: Another one has, or another run.
        """
        path = self.folder.path / PLAN_FILE
        if not path.exists():
            self.folder.check_free()
            return False
        kept = read_json(path, "choose another --out")
        asked = self.plan.to_json()
        if wrong := [name for name in asked if kept.get(name) != asked[name]]:
            raise InputError(
                f"{self.folder.path}: a federation with other {', '.join(wrong)} was found, but expected the same to go"
                " on with; repeat its command, or choose another --out."
            )
        return True

    def start(self) -> Message | None:
        """Begin or go on: read the public set, train on it, and say what a site is sent once.

        Returns:
            None if a signal stopped the training on the public set; it goes on where it was.

        Raises:
            InputError: For bad data or an occupied folder.
        """
        plan, config = self.plan, self.plan.config()
        again = self.check_folder()
        scanned, split = plan_split(config)
        self.data = load_data(config, scanned, split, use_unlabelled=False)
        self.public = PublicSet.of(self.data.labelled, self.data.coding, self.data.preprocessing)
        if again:
            require_same_files(self.folder, self.data)
        else:
            self.folder.create(config)
            self.data.record(self.folder)
            write_json(self.folder.path / PLAN_FILE, plan.to_json())
        begun = self._begun()
        if begun is None:
            return None
        state, choices, base = begun
        channels, classes = self.data.preprocessing.in_channels, self.data.coding.classes
        self.method = build_method(plan.global_config(), channels, classes)
        own = {name: value for name, value in state.items() if self._is_own(name)}
        load_trained_state(self.method, own, self.folder.path)
        self._go_on()
        message = self.public.to_message()
        values = {**message.values, "network": self.method.student_spec(), "sam": choices, "base": base}
        answers = plan.method.answered_once and base is not None
        return Message(values, message.tensors | (named("start", state) if answers else {}))

    def _is_own(self, name: str) -> bool:
        """Whether the global network has what the method that began had."""
        return not (self.plan.method.answered_once and name.startswith("sam."))

    def _begun(self) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None] | None:
        """What the training on the public set left: its state, what `auto` meant for its SAM, and which SAM it is."""
        plan, out = self.plan, self.folder.path / "start"
        config = plan.start_config()
        if plan.start_steps:
            begun = RunFolder(out)
            done = read_progress(begun.checkpoint).step if begun.checkpoint.exists() else 0
            if done < plan.start_steps:
                trainer = Trainer(config, begun, resume=begun.config.exists(), quiet=self.quiet)
                trainer.display.hints = False
                if not trainer.fit().finished:
                    return None
            method = load_trained_method(out)[0]
            if plan.method.answered_once and plan.config().options.get("agreement") != "local":
                sentence = trailing_sam(begun.validation_at(plan.start_steps))
                if sentence is not None:
                    TrainingDisplay(self.quiet).note(sentence)
        else:
            channels, classes = self.data.preprocessing.in_channels, self.data.coding.classes
            method = build_method(plan.config(), channels, classes)
        sam = record_sam_choices(config, method).sam
        base = None if method.sam is None else base_record(method.sam.teacher.base)
        return trained_state(method), {"size": sam.size, "normalise": sam.normalise}, base

    def _go_on(self) -> None:
        path = self.folder.path / STATE_FILE
        if path.exists():
            kept = load_checkpoint(path)
            self.round, self.best = kept["round"], kept["best"]
            load_trained_state(self.method, kept["state"], path)
        if self.folder.metrics.exists():
            # What a killed run wrote of the round that is next.
            self.folder.forget_after(self.round * self.plan.steps - 1)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.round > self.plan.rounds

    def message(self) -> Message:
        """What every site is sent in the next round."""
        if self.plan.different:
            state: Mapping[str, Tensor] = self.method.student().state_dict()
        else:
            state = shared_state(self.method, self.plan.local_norm)
        return Message({"round": self.round}, named(WEIGHTS, state))

    def collect(self, answers: Mapping[str, Message], received: Mapping[str, int]) -> dict[str, Any]:
        """End a round: score the network that it began with, keep it if it is the best, and make the next one.

        Args:
            answers: Of the sites that were there, by their names.
            received: Bytes that each was sent.

        Returns:
            The line that was written.
        """
        present = {site.name: answers[site.name] for site in self.plan.sites if site.name in answers}
        record = self._score(present, received)
        if self.round < self.plan.rounds:
            if self.plan.different:
                self._condense([answer.tensors["public_logits"] for answer in present.values()])
            else:
                states = [answer.part(WEIGHTS) for answer in present.values()]
                mean = fedavg(states, [answer.values["images"] for answer in present.values()])
                load_shared(self.method, mean, self.plan.local_norm)
                if self.plan.local_norm:
                    renew_statistics(self.method.student(), self.public)
        self.folder.append(record)
        self.round += 1
        state = {"round": self.round, "best": self.best, "state": trained_state(self.method)}
        save_checkpoint(self.folder.path / STATE_FILE, state)
        return record

    def _condense(self, logits: list[Tensor]) -> None:
        stacked = torch.stack(logits)

        def answer(chosen: Tensor, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            return best_answers(stacked[:, chosen].to(label.device).float(), label)

        student, config = self.method.student(), self.plan.global_config()
        learn_on_public(student, self.public, answer, config, self.plan.public_epochs, self.round * self.plan.steps)
        student.eval()

    def _score(self, answers: Mapping[str, Message], received: Mapping[str, int]) -> dict[str, Any]:
        step = self.round * self.plan.steps
        record: dict[str, Any] = {"step": step, "round": self.round, "sites": {}}
        for name, answer in answers.items():
            told = {key: answer.values.get(key) for key in ("images", "cases", "global", "own", "seconds")}
            record["sites"][name] = {**told, "sent": answer.size, "received": received.get(name, 0)}
        found: dict[str, Any] = {}
        scored: list[ScoredVolume] = []
        student = self.method.student()
        if self.data.validation:
            device, classes = torch.device("cpu"), self.data.coding.classes
            scored = score_network(student, None, self.data.validation, classes, device, self.display, step)
            scores = ValidationScores.of(scored)
            found = scores.to_json()
            record["validation"] = found
            self.folder.append_cases({"step": step, "cases": scores.case_means()})
        at_sites = [answer.values["global"] for answer in answers.values() if answer.values["global"] is not None]
        public = scores.mean() if scored else None
        dice = sum(at_sites) / len(at_sites) if at_sites else public
        record["dice"] = dice
        if dice is None or self.best is None or dice > self.best:
            self.best = dice
            info = self._info(step, found or ({} if dice is None else {"student": {"dice": dice}}))
            save_student(self.folder.student, student, info)
            if scored:
                write_calibration(self.folder, info, scored)
        save_student(self.folder.student_last, student, self._info(step, {}))
        return record

    def _info(self, step: int, validation: dict[str, Any]) -> StudentInfo:
        preprocessing, coding = self.data.preprocessing, self.data.coding
        spec = copy.deepcopy(self.method.student_spec())
        return StudentInfo(spec, preprocessing, coding.names, step, validation, __version__, coding.mask_values)


def trailing_sam(validation: Mapping[str, Any]) -> str | None:
    """A sentence for a person where SAM, who is to teach every site, knows less than the network it would teach.

    Args:
        validation: Scores of a validation by prediction, the network's first, see `ValidationScores.to_json`.
    """
    if SAM not in validation:
        return None
    network, sam = next(iter(validation.values()))["dice"], validation[SAM]["dice"]
    if sam >= network:
        return None
    return (
        f"SAM knows less than the network that it would teach: Dice {sam:.3f} against {network:.3f} on the public set's"
        " validation; train longer there (--start-steps), or leave it out (options.agreement=local)."
    )
