"""The embedded campaign ``toy``: simulated proton collisions at 8 TeV, written in the outreach schema.

Everything here is *simulated*; no collision was recorded. The campaign lets every notebook and command work
without a network, with files that look to the reader like the public ones of 2012: TTree ``Events``, 32
branches, sentinels where a quantity does not exist, and two primary datasets that overlap.

What is exact and what is not
-----------------------------
* **H(125) -> ZZ* -> 4l**: masses and angles follow the tree-level squared amplitude with V-A couplings, by
  accept-reject. Interference of identical flavours enters as a factor on their rate only. Neglected: photon
  exchange, the width of 4 MeV, spin correlations of tau pairs (taus decay collinearly to e, mu or hadrons).
* **q q -> 4l**: two incoherent parts. *Double-resonant*, q q -> (Z/gamma*)(Z/gamma*): the tree-level
  dsigma/dt for two off-shell vector bosons, with Z and photon spectral functions added incoherently.
  *Single-resonant*, Z -> l l gamma* (the Z -> 4l peak): the same amplitude crossed. Approximations: boson
  decays follow 1 + cos^2(theta) without correlation, no interference of identical leptons, parton
  luminosity M^-3.2; the relative size of the two parts is tuned, not computed. Weights above 1.2 times the
  largest at the corners and the centre of a cell of the sampling grid are clipped.
* **Z + X**: a Z boson and two non-prompt leptons; spectra and rates are plausible, not derived.
* **Detector**: acceptance, efficiency, resolution, isolation, impact parameters are parametrised per
  lepton. Some columns carry 11 or 12 bits of mantissa, as in NanoAOD.

The ZZ samples have a generator filter: four leptons with pT > 3 GeV and abs(eta) < 2.7, every opposite-sign
same-flavour pair above 4 GeV, m4l > 65 GeV. The cross sections in `pseudodata.DATASETS` are those after the filter and
*before* the factor ``scale`` (1.386 for ZZ as in the public examples): expected events = luminosity x cross
section x scale. They are tuned so that the selection ``aod2012`` expects, in 70 < m4l < 181 GeV at 11.58
/fb, H 8.0, ZZ 66, Z + X 9. No trigger is applied to the simulation, as in the public files.

Pseudo-data are drawn from the same processes with Poisson counts at 11.58 /fb, among two- and three-lepton
collisions (Z, tt-like, Z + fake, QCD-like) that no selection of four isolated leptons keeps. Emulated
dilepton triggers split them in two primary datasets; a collision that fires both is in both files, identical in
every branch. The triggers keep 97 % or more of the selected four-lepton collisions, but DoubleMu alone only
two thirds of 2e2mu.

`writer.DEFAULT_SEED`, 125, was the first one tried. It was kept because it is typical: over 3 channels x 6 ranges
of mass the selected pseudo-data agree with the expectation with -2 ln L ratio = 7.0 for 18 numbers, and 17
events lie in 118-130 GeV where 16.3 are expected.
"""
