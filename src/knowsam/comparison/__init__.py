"""`knowsam compare`: a grid of runs, one table.

`grid` says which runs and under which settings, `folder` where everything is. `loop` does them one after the other,
each in a process of its own (`cell`); `scores` predicts and scores once per run. `statistics` and `results` bring the
numbers together; `tables`, `drawing` and `output` write them.
"""

from __future__ import annotations
