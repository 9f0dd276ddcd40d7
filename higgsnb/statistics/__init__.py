"""Is it a signal, and how much: counting tests, the fit of the signal strength, pseudo-experiments."""

from __future__ import annotations

from higgsnb.statistics.fit import (
    SIGNAL,
    FitResult,
    Model,
    Toys,
    WindowScan,
    WindowTest,
    asimov_significance,
    counting_test,
    fit_signal_strength,
    model,
    p_value_of,
    poisson_p_value,
    scan_windows,
    significance,
    toys,
)

__all__ = [
    "significance",
    "p_value_of",
    "poisson_p_value",
    "asimov_significance",
    "counting_test",
    "WindowTest",
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
