"""The options of a training, one record each, from which `train`'s checks, commands and a search's grid are made.

To add one: add its record here, the keyword in the signature and docstring of `gpubp.training.loop.train`, and the step
that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from gpubp import checks
from gpubp.optimizers import OPTIMIZERS
from gpubp.schedules import SCHEDULES

AS_IN_TRAIN: Any = object()
EPOCHS = 20
FEWEST_STEPS = 1000  # if it may choose the epochs, the command line takes more where EPOCHS would make fewer steps


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a training, or of the network that is trained.

    Attributes
    ----------
    name : str
        The name in Python: ``"batch_size"``, which the command line writes ``--batch-size``.
    type : type
        str, int or float: the type of one network's value.
    default : str, int, float or None
        The value if `gpubp.train` is called without it.
    command_default : str, int, float or None
        The value without it on the command line; `default` unless given.
    low, high : float
        Bounds of a number. The lower one is included and the upper one is not, unless `low_open` and `high_open` say
        otherwise. Whole numbers only have a lower bound.
    optional : bool
        Whether a number may be None, which switches the option off or leaves it to gpubp.
    off : float or None
        A number with the effect of None. If there is one, networks with and without the option fit in one stack.
    per_network : bool
        Whether each network of a stack may have a value of its own.
    of_optimizer : bool
        Whether it is an option of some optimizers, which `gpubp.train` takes in its `optimizer_options`.
    help, metavar : str
        The text in ``--help``, and the name of the value there.
    not_searched : str
        Why a search cannot vary it; empty if it can.
    """

    name: str
    type: type[str] | type[int] | type[float]
    default: Any
    command_default: Any = AS_IN_TRAIN
    low: float = -inf
    high: float = inf
    low_open: bool = False
    high_open: bool = True
    optional: bool = False
    off: float | None = None
    per_network: bool = True
    of_optimizer: bool = False
    help: str
    metavar: str = "N"
    not_searched: str = ""

    def __post_init__(self) -> None:
        if self.command_default is AS_IN_TRAIN:
            object.__setattr__(self, "command_default", self.default)

    @property
    def optional_in_command(self) -> bool:
        """Whether its value may be None on the command line."""
        return self.optional or self.command_default is None

    def check(self, value: Any, models: int) -> Any:
        """Check a user's number, or one per network, and convert it for a stack of K = `models` networks.

        Returns
        -------
        (K,) array of float64 or int64, int or None
            An int if a stack has one for all; None stays None where it is allowed.

        Raises
        ------
        UsageError
            If it is not such a number, is out of bounds, or is not one per network.
        """
        if value is None and self.optional:
            return None
        if self.type is float:
            return checks.per_network(
                self.name, value, models, self.low, self.high, low_open=self.low_open, high_open=self.high_open
            )
        if self.per_network:
            return checks.whole_per_network(self.name, value, models, int(self.low))
        return checks.whole(self.name, value, int(self.low))


TRAINING_OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            name="optimizer",
            type=str,
            default="adam",
            per_network=False,
            help=f"Update rule: {', '.join(OPTIMIZERS)}.",
            metavar="NAME",
        ),
        Option(
            name="learning_rate",
            type=float,
            default=1e-3,
            low=0.0,
            low_open=True,
            help="Base learning rate.",
        ),
        Option(
            name="schedule",
            type=str,
            default=None,
            command_default="cosine",
            help=f"Learning rate over time: {', '.join(SCHEDULES)}.",
            metavar="NAME",
        ),
        Option(
            name="momentum",
            type=float,
            default=None,
            optional=True,
            of_optimizer=True,
            help="For optimizers that have it (default: 0.9).",
        ),
        Option(
            name="l2",
            type=float,
            default=0.0,
            low=0.0,
            help="Add L2 times the weights to their gradient.",
        ),
        Option(
            name="weight_decay",
            type=float,
            default=None,
            low=0.0,
            optional=True,
            help="Decoupled weight decay (default: 0; adamw 0.01).",
        ),
        Option(
            name="dropout",
            type=float,
            default=0.0,
            low=0.0,
            high=1.0,
            help="Share of hidden units dropped at each step.",
        ),
        Option(
            name="label_smoothing",
            type=float,
            default=0.0,
            low=0.0,
            high=1.0,
            help="For losses on classes.",
        ),
        Option(
            name="max_grad_norm",
            type=float,
            default=None,
            low=0.0,
            low_open=True,
            high_open=False,
            optional=True,
            off=inf,
            help="Scale longer gradients down to this norm.",
        ),
        Option(
            name="batch_size",
            type=int,
            default=128,
            low=1,
            per_network=False,
            help="Rows of a step.",
        ),
        Option(
            name="accumulate",
            type=int,
            default=1,
            low=1,
            per_network=False,
            help="Go through each batch in N parts, in the memory of one, for one update.",
        ),
        Option(
            name="epochs",
            type=int,
            default=EPOCHS,
            command_default=None,
            low=1,
            help=f"Passes over the rows (default: {EPOCHS}; more if they make < {FEWEST_STEPS} steps).",
        ),
        Option(
            name="patience",
            type=int,
            default=None,
            low=1,
            optional=True,
            help="Stop after so many epochs without a lower validation loss.",
        ),
        Option(
            name="update_tolerance",
            type=float,
            default=None,
            low=0.0,
            optional=True,
            help="Stop when no weight or bias moved more than this in an epoch.",
        ),
    )
}
