"""The cases of test_kernels_host.py and some of test_on_chip.py on a GPU; compute-sanitizer watches these tests."""

from __future__ import annotations

import pytest
import test_kernels_host as on_the_host
import test_on_chip as on_chip

from gpubp.backends import get_backend
from support import kernel_checks as checks
from support.on_chip_checks import check_on_chip

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "check, cases",
    [
        (checks.check_layer, on_the_host.LAYERS),
        (checks.check_output, on_the_host.OUTPUT_LAYERS),
        (checks.check_loss, on_the_host.DELTAS + on_the_host.DELTAS_OF_MANY + on_the_host.DELTAS_THROUGH),
        (checks.check_update, on_the_host.UPDATES),
        (checks.check_gather, on_the_host.BATCHES),
        (check_on_chip, on_chip.ON_A_GPU),
    ],
    ids=["layers", "outputs", "losses", "updates", "batches", "steps on the chip"],
)
def test_kernels_on_a_gpu(check, cases):
    driver = get_backend("cuda", "float32").driver
    for case in cases:
        try:
            check(driver, **case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from None
