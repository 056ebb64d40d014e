"""Values for all options on a network and its training: one set in `train`, many in `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpubp.activations import get_activation, get_output_activation
from gpubp.cli.options import OPTIONS
from gpubp.cli.parsing import dashed, parse_hidden, parse_list
from gpubp.errors import UsageError
from gpubp.initializers import get_initializer
from gpubp.losses import get_loss
from gpubp.network import MLP
from gpubp.optimizers import OPTIMIZERS, get_optimizer
from gpubp.schedules import get_schedule
from gpubp.training.options import EPOCHS, FEWEST_STEPS, TRAINING_OPTIONS


@dataclass(frozen=True)
class Settings:
    """The values of the options on a network and its training.

    Attributes
    ----------
    values : dict
        A value for each of OPTIONS by name, as typed: ``{"hidden": "512,256", ...}``.
    optimizer_options : dict of float
        Options of the optimizer that only a search's grid can name: ``{"beta2": 0.99}``.
    """

    values: Mapping[str, Any]
    optimizer_options: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str) -> Any:
        """The value of an option, which may be the optimizer's; None if not set."""
        return self.as_dict().get(name)

    def as_dict(self) -> dict[str, Any]:
        """All values by name, with the optimizer's options last."""
        return {**self.values, **self.optimizer_options}

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """A copy with other values for these options, which may be the optimizer's."""
        of_optimizer = {name: value for name, value in values.items() if name not in OPTIONS}
        others = {name: value for name, value in values.items() if name in OPTIONS}
        return Settings({**self.values, **others}, {**self.optimizer_options, **of_optimizer})

    def with_epochs(self, rows: int) -> Settings:
        """A copy with a number of epochs that suits `rows` training rows, if none is set."""
        if self["epochs"] is not None:
            return self
        return self.changed({"epochs": default_epochs(rows, self["batch_size"])})

    def check_names(self) -> None:
        """Look up everything that is given by name.

        Raises
        ------
        UsageError
            For an unknown name, with the nearest known one.
        """
        parse_hidden(self["hidden"])
        for name in parse_list(self["activation"]):
            get_activation(name)
        if self["loss"] != "auto":
            get_loss(self["loss"])
        if self["output_activation"] != "auto":
            get_output_activation(self["output_activation"])
        get_initializer(self["init"], "zeros")
        get_schedule(self["schedule"])
        self._optimizer_options()

    def network(
        self, n_inputs: int, n_outputs: int, loss: str, seed: int | Sequence[int], device: str, precision: str
    ) -> MLP:
        """The network; with a list of seeds, a stack with one network per seed."""
        activations = parse_list(self["activation"])
        return MLP(
            [n_inputs, *parse_hidden(self["hidden"]), n_outputs],
            activations=activations if len(activations) > 1 else activations[0],
            loss=loss,
            init=self["init"],
            seed=seed,
            device=device,
            precision=precision,
            models=1 if isinstance(seed, int) else len(seed),
            output_activation=self["output_activation"],
        )

    def train_arguments(self) -> dict[str, Any]:
        """The keyword arguments of `gpubp.train`; `epochs` must be known."""
        arguments = {name: self[name] for name, option in TRAINING_OPTIONS.items() if not option.of_optimizer}
        if arguments["weight_decay"] is None:  # otherwise a stack could not mix networks with and without it
            arguments["weight_decay"] = get_optimizer(self["optimizer"]).weight_decay
        return arguments | {"optimizer_options": self._optimizer_options()}

    def _optimizer_options(self) -> dict[str, Any]:
        """All options of the optimizer, with its own defaults, checked."""
        rule = get_optimizer(self["optimizer"])
        options = {
            name: self[name]
            for name, option in TRAINING_OPTIONS.items()
            if option.of_optimizer and self[name] is not None
        }
        for name in options:
            if name not in rule.options:
                able = " or ".join(other for other, make in OPTIMIZERS.items() if name in make().options)
                raise UsageError(f'--{dashed(name)}: optimizer "{rule.name}" has none; use --optimizer {able}')
        return rule.configured({**options, **self.optimizer_options})


def default_epochs(rows: int, batch_size: int) -> int:
    """20 epochs, or on small data as many as make 1,000 steps.

    With fewer, the default learning rate leaves a network half trained: 240 steps on digits give a test
    accuracy of 0.95, 1,000 steps 0.98.
    """
    steps_per_epoch = -(-rows // max(1, batch_size))
    return max(EPOCHS, -(-FEWEST_STEPS // steps_per_epoch))
