"""One call of `train`, from epoch to epoch: the steps, validation, early stopping, callbacks and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.diagnostics.health import HealthWatch
from gpubp.errors import CheckpointError, TrainingInterrupted
from gpubp.network import MLP
from gpubp.training.checkpoint import Checkpoints, TrainingState
from gpubp.training.data_parallel import check_still_same, evaluate
from gpubp.training.divergence import divergence_error, lost_error, say_if_slots_overflowed
from gpubp.training.history import History
from gpubp.training.ranks import Ranks
from gpubp.training.samples import Samples
from gpubp.training.step import EpochResult, TrainingStep
from gpubp.training.step_table import Planner, StepTable
from gpubp.training.stopping import EarlyStopping

Callback = Callable[[MLP, History], Any]


class TrainingRun:
    """One call of `train`, from epoch to epoch."""

    def __init__(
        self,
        net: MLP,
        step: TrainingStep,
        planner: Planner,
        total_weight: NDArray[np.float64],
        validation: Samples | None,
        stopping: EarlyStopping,
        callbacks: Sequence[Callback],
        checkpoints: Checkpoints | None,
    ) -> None:
        self.net, self.stack, self.step = net, net.stack, step
        self.planner, self.total_weight, self.validation = planner, total_weight, validation
        self.ranks: Ranks = step.batches.ranks
        self.stopping, self.callbacks, self.checkpoints = stopping, callbacks, checkpoints
        self.history = History(net.loss.metric_name(net.layer_sizes[-1]), net.models)
        self.stopped = self.history.stopped_by_network
        self.best_loss = np.full(net.models, np.inf)
        self.best_epoch = np.zeros(net.models, np.int64)
        self.best_theta = None if stopping.patience is None else self.stack.theta.copy()
        self.monitored = np.empty((0, net.models))
        self.epoch = self.position = 0  # the epoch and the step within it that come next
        self.start = time.perf_counter()

    def run(self, state: TrainingState | None = None) -> History:
        """Train epoch after epoch, starting from `state` if given, until the last or until no network is active."""
        if state is not None:
            self.restore(state)
        history = self.history
        try:
            with self.checkpoints or nullcontext():
                while self.step.active().any():
                    self._train_epoch()
                    answers = [callback(self.net, history) for callback in self.callbacks]  # call every one
                    if self.ranks.any(any(isinstance(answer, bool | np.bool_) and answer for answer in answers)):
                        self._stop(self.step.active(), "callback")
                    self.epoch, self.position = self.epoch + 1, 0
                    self._stop(self.step.active() & (self.planner.epochs == self.epoch), "epochs")
                    self._look_up()
        except (TrainingInterrupted, CheckpointError) as error:
            if self.position:
                self.step.give_back()
            history.steps += self.position
            self.stopped[self.step.active()] = "interrupted"
            error.history = history
            raise
        finally:
            self.step.data.close()
            if self.best_theta is not None and np.isfinite(self.best_loss).any():
                self.stack.backend.assign(self.stack.theta, self.best_theta, np.isfinite(self.best_loss))
            if self.validation is not None and history.epochs:
                history.best_epoch_by_network = self.best_epoch
        rows = float(self.planner.counts.mean()) * history.epochs
        history.samples_per_second = rows / (time.perf_counter() - self.start)
        say_if_slots_overflowed(self.step)
        return history

    def _train_epoch(self) -> None:
        """Take the steps of an epoch, record it in the history, and determine which networks end with it."""
        step, history = self.step, self.history
        table = self.planner.table(self.epoch, self.monitored)
        if step.augmentation is not None:
            step.augmentation.begin_epoch(self.epoch)
        result = step.run_epoch(table, self.position, None if self.checkpoints is None else self)
        check_still_same(self.ranks, self.stack)
        trains = step.began & ~result.diverged
        history.steps += table.steps
        if result.overflows is not None:
            skipped = history.count_overflows(result.overflows)
            if result.largest_update is not None:  # unknown if all steps were skipped
                result.largest_update[skipped == self.planner.steps_per_epoch] = np.inf
        curves = self._training_curves(table, result, trains)
        monitored = curves["loss"]
        if self.validation is not None:
            monitored, validation_metric = self._validate(self.validation, trains)
            curves |= {"validation_loss": monitored, "validation_metric": validation_metric}
        history.append(time.perf_counter() - self.start, **curves)
        self.monitored = np.vstack([self.monitored, monitored])
        lost = trains & ~np.isfinite(monitored)
        if result.diverged.any() or lost.any():
            self._stop(result.diverged | lost, "diverged")
            if not step.active().any() and (self.stopped == "diverged").all():
                raise lost_error(history) if lost.any() else divergence_error(step, result.diverged, history)
        self._stop_early(self.epoch, monitored, result.largest_update)

    # -- checkpoints -----------------------------------------------------------------------------------

    def most_steps(self, position: int) -> int:
        """How many steps of the epoch may be taken before a checkpoint could be due."""
        assert self.checkpoints is not None
        return self.checkpoints.most_steps(self._steps_before() + position)

    def reached(self, position: int) -> None:
        """Write a checkpoint before this step of the epoch, if one is due."""
        self.position = position
        self._look_up()

    def _look_up(self) -> None:
        """Write a checkpoint if one is due, and end the training if that was requested."""
        checkpoints = self.checkpoints
        ended = None if self.position else self.epoch
        if checkpoints is None or not checkpoints.due(self._steps_before() + self.position, ended):
            return
        checkpoints.write(self.state())
        signal, folder = checkpoints.interruption.signal, checkpoints.folder
        if signal is not None and folder is not None and self.step.active().any():
            checkpoints.wait()
            raise TrainingInterrupted(signal, self.history, folder.path)

    def _steps_before(self) -> int:
        """Steps of the finished epochs, of the network that takes the most."""
        return self.epoch * int(self.planner.steps_per_epoch.max())

    def state(self) -> TrainingState:
        """All that is needed to continue from here, copied to the host."""
        to_host, last = self.stack.backend.to_host, self.monitored[-1:]
        tensors = {
            "theta": np.array(to_host(self.stack.theta)),
            "members": self.step.members,
            "began": self.step.began,
            "monitored": self.monitored,
            "best_loss": self.best_loss.copy(),
            "best_epoch": self.best_epoch.copy(),
            **({} if self.best_theta is None else {"best_theta": np.array(to_host(self.best_theta))}),
            **{f"step.{name}": array for name, array in self.step.carried_to_host().items()},
            **{f"history.{name}": array for name, array in self.history.tensors().items()},
        }
        return TrainingState(
            epoch=self.epoch,
            position=self.position,
            step=self._steps_before() + self.position,
            score=float(last[np.isfinite(last)].mean()) if np.isfinite(last).any() else np.inf,
            tensors=tensors,
            metadata={
                "steps": self.history.steps,
                "stopped": self.stopped.tolist(),
                "seconds": time.perf_counter() - self.start,
            },
        )

    def restore(self, state: TrainingState) -> None:
        """Continue from the state of a training like this one."""
        backend, tensors = self.stack.backend, state.tensors
        self.epoch, self.position = state.epoch, state.position
        self.stack.theta[...] = backend.from_host(tensors["theta"])
        if self.best_theta is not None:
            self.best_theta[...] = backend.from_host(tensors["best_theta"])
        self.best_loss, self.best_epoch, self.monitored = (
            tensors[name] for name in ("best_loss", "best_epoch", "monitored")
        )
        of_history = {key.partition(".")[2]: tensors[key] for key in tensors if key.startswith("history.")}
        self.history.restore(of_history)
        for callback in self.callbacks:
            if isinstance(callback, HealthWatch):
                callback.go_on(self.stack, self.history, of_history)
        self.history.steps = state.metadata["steps"]
        self.stopped[:] = state.metadata["stopped"]
        self.start = time.perf_counter() - state.metadata["seconds"]
        carried = {key.partition(".")[2]: tensors[key] for key in tensors if key.startswith("step.")}
        self.step.restore(tensors["members"], tensors["began"], carried)

    # -- what comes of an epoch ------------------------------------------------------------------------

    def _training_curves(
        self, table: StepTable, result: EpochResult, trains: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float64]]:
        """What an epoch adds to the curves of the networks, (K,) each, NaN for those that do not train."""
        mean = result.totals.sum(axis=1) / self.total_weight[:, None]  # (K, 2): loss and quantity behind the metric
        mean[~trains] = np.nan
        last_rates = table.learning_rate[np.arange(self.stack.models), self.planner.steps_per_epoch - 1]
        return {
            "loss": mean[:, 0],
            "metric": np.array([self.stack.loss.metric.finish(v) for v in mean[:, 1]]),
            "learning_rate": np.where(self.step.began, last_rates, np.nan),  # also of those that diverged
        }

    def _validate(self, samples: Samples, trains: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Loss and metric (K,) of the networks that train, NaN for the others."""
        members = self.step.members
        rows = None if samples.rows is None else [samples.rows[k] for k in members.tolist()]
        weight = samples.weight if samples.weight is None or samples.weight.ndim == 1 else samples.weight[members]
        of_members = replace(samples, rows=rows, weight=weight)
        loss, metric = np.full((2, len(trains)), np.nan)
        loss[members], metric[members] = evaluate(self.ranks, self.step.live, of_members)
        return np.where(trains, loss, np.nan), np.where(trains, metric, np.nan)

    def _stop_early(
        self, epoch: int, monitored: NDArray[np.float64], largest_update: NDArray[np.float64] | None
    ) -> None:
        """Record the best epoch of each network; stop those whose patience is exhausted or that hardly change."""
        patience, tolerance = self.stopping.patience, self.stopping.update_tolerance
        active = self.step.active()
        if self.validation is not None:
            better = active & (monitored < self.best_loss)
            self.best_loss[better], self.best_epoch[better] = monitored[better], epoch
            if self.best_theta is not None and patience is not None:
                self.stack.backend.assign(self.best_theta, self.stack.theta, better)
                self._stop(active & (epoch - self.best_epoch >= patience), "patience")
        if tolerance is not None and largest_update is not None:
            self._stop(self.step.active() & (largest_update <= tolerance), "update_tolerance")

    def _stop(self, networks: NDArray[np.bool_], why: str) -> None:
        self.stopped[networks] = why
        self.step.stop(networks)
