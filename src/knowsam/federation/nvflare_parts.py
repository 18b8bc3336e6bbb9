"""What NVFlare runs: a controller on the server, an executor at each site. Imported by NVFlare alone.

Both hand messages on to `Server` and `Site`; transport, processes, dead clients and filters are NVFlare's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.model_controller import ModelController

from knowsam.federation.messages import Message
from knowsam.federation.plan import Plan
from knowsam.federation.server import Server
from knowsam.federation.site import Site

START, ROUND = "start", "round"
"""Names of the two tasks, for filters."""
VALUES = "knowsam"
"""Key of a message's values among those of NVFlare's model."""
NOTHING = "nothing"
"""Name of the tensor of a message that has none: NVFlare sends no model without."""


def to_model(message: Message) -> FLModel:
    """A message in the form that NVFlare carries and its filters know: arrays by name are weights."""
    arrays = message.to_arrays() or {NOTHING: np.zeros(1)}
    return FLModel(params=arrays, meta={VALUES: json.dumps(message.values)})


def from_model(model: FLModel, sent: Message | None = None) -> Message:
    """Inverse of `to_model`.

    Args:
        model: As it arrived.
        sent: What it answers: a site whose filters look at changes of weights, such as NVFlare's for privacy, sends
            changes (`ConvertWeights`), which are added to it here.
    """
    arrays = {name: value for name, value in (model.params or {}).items() if name != NOTHING}
    message = Message.from_arrays(json.loads(model.meta[VALUES]), arrays)
    if model.params_type != ParamsType.DIFF or sent is None:
        return message
    old = sent.tensors
    whole = {name: (old[name] + value).to(old[name].dtype) if name in old else value
             for name, value in message.tensors.items()}  # fmt: skip
    return Message(message.values, whole)


class FederationController(ModelController):
    """The server's side.

    Args:
        plan: As JSON.
        out: The federation's folder on the server.
    """

    def __init__(self, plan: str, out: str) -> None:
        super().__init__(persistor_id="")
        self.plan, self.out = plan, out

    def run(self) -> None:
        """All rounds, from the one that is next; a site that does not answer is left out of a round."""
        plan = Plan.from_json(json.loads(self.plan))
        needed = plan.min_sites or len(plan.sites)
        server = Server(plan, Path(self.out), quiet=True)
        start = server.start()
        if start is None:
            raise RuntimeError("the training on the public set was stopped")
        once = dict.fromkeys((site.name for site in plan.sites), start.size if server.round == 0 else 0)
        self._ask(plan, START, start)
        while not server.finished:
            message = server.message()
            answers = self._ask(plan, ROUND, message)
            if len(answers) < needed:
                raise RuntimeError(f"round {server.round}: {len(answers)} sites answered, but {needed} are needed")
            server.collect(answers, {name: message.size + once.pop(name, 0) for name in answers})

    def _ask(self, plan: Plan, task: str, message: Message) -> dict[str, Message]:
        """Send a message to all sites and wait: for all, or where fewer will do, for the others as long as asked."""
        patience = {"min_responses": plan.min_sites, "wait_time_after_min_received": plan.patience}
        results = self.broadcast_model(task_name=task, data=to_model(message), **(patience if plan.min_sites else {}))
        return {model.meta["client_name"]: from_model(model, message) for model in results}


class SiteExecutor(Executor):
    """A site's side.

    Args:
        plan: As JSON, without the folders and settings of other sites.
        site_name: Its name.
        out: Its folder, on its machine.
    """

    def __init__(self, plan: str, site_name: str, out: str) -> None:
        super().__init__()
        self.plan, self.site_name, self.out = plan, site_name, out
        self.site: Site | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """See `Executor`."""
        message = from_model(FLModelUtils.from_shareable(shareable))
        if task_name == START:
            self.site = self._begin(message)
            return self._reply(Message({}))
        if task_name == ROUND:
            if self.site is None:  # this process is a new one
                self.site = self._begin(None)
            return self._reply(self.site.round(message))
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def _begin(self, start: Message | None) -> Site:
        return Site.begin(Plan.from_json(json.loads(self.plan)), self.site_name, start, Path(self.out))

    def _reply(self, message: Message) -> Shareable:
        reply: Any = FLModelUtils.to_shareable(to_model(message))
        return reply
