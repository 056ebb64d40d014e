"""How a network is made and trained, as the command line says it: what `train` has once and `search` varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gpubp.activations import get_activation, get_output_activation
from gpubp.cli.parsing import default_epochs, optimizer_options, parse_hidden, parse_list
from gpubp.initializers import get_initializer
from gpubp.losses import get_loss
from gpubp.network import MLP
from gpubp.optimizers import get_optimizer
from gpubp.schedules import get_schedule


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options on the network and its training, as they are typed: ``hidden="512,256"``.

    Attributes
    ----------
    optimizer_options : pairs of str and float
        Options of the optimizer that only a search's grid names: ``(("beta2", 0.99),)``.
    """

    hidden: str
    activation: str
    loss: str
    output_activation: str
    init: str
    optimizer: str
    learning_rate: float
    schedule: str
    momentum: float | None
    l2: float
    weight_decay: float | None
    dropout: float
    label_smoothing: float
    max_grad_norm: float | None
    batch_size: int
    epochs: int | None
    patience: int | None
    update_tolerance: float | None
    optimizer_options: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Those among a command's options."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})

    def having(self, values: Mapping[str, Any]) -> Settings:
        """The same but for these options, which may be the optimizer's."""
        own = {field.name for field in fields(self)}
        more = tuple((name, value) for name, value in values.items() if name not in own)
        changed = {name: value for name, value in values.items() if name in own}
        return replace(self, **changed, optimizer_options=self.optimizer_options + more)

    def get(self, name: str) -> Any:
        """The value of an option, which may be the optimizer's."""
        return self.as_dict().get(name)

    def as_dict(self) -> dict[str, Any]:
        """All options by name."""
        found = asdict(self)
        return found | dict(found.pop("optimizer_options"))

    def with_epochs(self, rows: int) -> Settings:
        """With a number of epochs that suits so many training rows, where none is given."""
        return self if self.epochs is not None else replace(self, epochs=default_epochs(rows, self.batch_size))

    def check(self) -> None:
        """Look every name up.

        Raises
        ------
        UsageError
            For one that is unknown, with the nearest that is known.
        """
        parse_hidden(self.hidden)
        for name in parse_list(self.activation):
            get_activation(name)
        if self.loss != "auto":
            get_loss(self.loss)
        if self.output_activation != "auto":
            get_output_activation(self.output_activation)
        get_initializer(self.init, "zeros")
        get_schedule(self.schedule)
        self._optimizer_options()

    def network(
        self, n_inputs: int, n_outputs: int, loss: str, seed: int | Sequence[int], device: str, precision: str
    ) -> MLP:
        """The network; with a list of seeds, a stack of as many."""
        activations = parse_list(self.activation)
        return MLP(
            [n_inputs, *parse_hidden(self.hidden), n_outputs],
            activations if len(activations) > 1 else activations[0],
            loss,
            self.init,
            seed,
            device,
            precision,
            1 if isinstance(seed, int) else len(seed),
            output_activation=self.output_activation,
        )

    def arguments(self) -> dict[str, Any]:
        """Those of `gpubp.train`; `epochs` must be known."""
        decay = get_optimizer(self.optimizer).weight_decay if self.weight_decay is None else self.weight_decay
        return {
            "optimizer": self.optimizer,
            "optimizer_options": self._optimizer_options(),
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "l2": self.l2,
            "weight_decay": decay,
            "dropout": self.dropout,
            "label_smoothing": self.label_smoothing,
            "max_grad_norm": self.max_grad_norm,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "patience": self.patience,
            "update_tolerance": self.update_tolerance,
        }

    def _optimizer_options(self) -> dict[str, Any]:
        options = {**optimizer_options(self.optimizer, self.momentum), **dict(self.optimizer_options)}
        return get_optimizer(self.optimizer).configured(options)
