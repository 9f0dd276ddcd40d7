"""Is it a signal, and how large: counting tests, the fit of the signal strength, pseudo-experiments, a scan."""

from __future__ import annotations

from higgsnb.statistics.binned_model import Model, model
from higgsnb.statistics.counting import (
    WindowTest,
    asimov_significance,
    counting_test,
    p_value_of,
    poisson_p_value,
    significance,
)
from higgsnb.statistics.fit import FitResult, fit_signal_strength
from higgsnb.statistics.inputs import SIGNAL
from higgsnb.statistics.intervals import deviation, garwood
from higgsnb.statistics.pseudo_experiments import Toys, toys
from higgsnb.statistics.scan import WindowScan, scan_windows

__all__ = [
    "significance",
    "p_value_of",
    "poisson_p_value",
    "asimov_significance",
    "counting_test",
    "WindowTest",
    "garwood",
    "deviation",
    "fit_signal_strength",
    "FitResult",
    "model",
    "Model",
    "toys",
    "Toys",
    "scan_windows",
    "WindowScan",
    "SIGNAL",
]


def __dir__() -> list[str]:
    return __all__
