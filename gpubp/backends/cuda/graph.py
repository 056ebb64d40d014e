"""Steps as CUDA graphs: captured once per row pattern, replayed without host work in between."""

from __future__ import annotations

from collections.abc import Callable

from gpubp.backends.cuda.driver import Driver

UNROLLED = 16  # steps in one graph, so that they share one gap between launches


class StepGraphs:
    """The graphs of one training step; a step finds its rows through the cursor on the device, so all steps are alike.

    Parameters
    ----------
    driver : Driver
    step : callable
        ``step(rows)`` launches one step.
    capturable : callable
        Whether the step's launches can be captured; called after the step ran once.
    prepare : callable, optional
        ``prepare(rows)`` does in advance what cannot be captured; without it, the first step is called for that.
    """

    def __init__(
        self,
        driver: Driver,
        step: Callable[[int], None],
        capturable: Callable[[], bool],
        prepare: Callable[[int], None] | None = None,
    ) -> None:
        self.driver, self.step, self.capturable, self.prepare = driver, step, capturable, prepare
        self.known: set[int] = set()
        self.graphs: dict[tuple[int, int], Callable[[], None]] = {}

    def run(self, count: int, rows: int) -> None:
        """Take `count` steps of `rows` rows.

        The first step of a row pattern is called, which compiles its kernels, prepares its products and allocates its
        scratch: none of that could happen inside a capture. If `prepare` does so, the first step is a graph too,
        captured before any is launched. Steps of another thread run before or after them.
        """
        with self.driver.turn():
            self._run(count, rows)

    def _run(self, count: int, rows: int) -> None:
        if rows not in self.known and self.prepare is not None:
            self.prepare(rows)
            self.known.add(rows)
            if self.capturable():
                self._graph(rows, 1)
        elif count and rows not in self.known:
            self.step(rows)
            self.known.add(rows)
            count -= 1
        if not self.capturable():
            for _ in range(count):
                self.step(rows)
            return
        for steps in (UNROLLED, 1):
            times, count = divmod(count, steps)
            for _ in range(times):
                self._graph(rows, steps)()

    def _graph(self, rows: int, steps: int) -> Callable[[], None]:
        def several() -> None:
            for _ in range(steps):
                self.step(rows)

        if (rows, steps) not in self.graphs:
            self.graphs[rows, steps] = self.driver.capture(several)
        return self.graphs[rows, steps]
