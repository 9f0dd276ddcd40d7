"""Constants of nature and the magnetic field of CMS, each with its source."""

from __future__ import annotations

# Particle Data Group 2024; masses and widths in GeV.
MASS_Z, WIDTH_Z = 91.1876, 2.4955
MASS_ELECTRON, MASS_MUON, MASS_TAU = 0.00051099895, 0.1056583755, 1.77686

FIELD_TESLA = 3.8
"""Magnetic field inside the coil of CMS (JINST 3 (2008) S08004)."""
RETURN_FIELD_TESLA = -1.8
"""Magnetic field in the iron yoke around the coil, where it points the other way; a rough mean."""
CURVATURE = 0.2998
"""A particle of unit charge with pT = 1 GeV turns by so many radians per metre in 1 T (pT = 0.2998 B r)."""
