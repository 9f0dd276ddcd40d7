// The df103 analysis in RDataFrame, three times: the tutorial's own functions as they stand in ROOT's distribution, the same
// with every string replaced by a typed lambda, and the leanest graph we can think of (one shared filter on the counters,
// one typed lambda per channel that leaves at the first failed cut). Each returns 3 x 36 bins and the seconds it took.
//
// DF103_TUTORIAL is the path of df103_NanoAODHiggsAnalysis.C, given by the script that compiles this file.

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wreturn-type" // renamed, its main() has no implicit return value any more
#define main df103_main
#include DF103_TUTORIAL
#undef main
#pragma GCC diagnostic pop

#include <ROOT/RDataFrame.hxx>
#include <TROOT.h>
#include <string>
#include <vector>

namespace bench {

using Bins = std::vector<double>;
using RVecF = const ROOT::RVecF &;
using RVecI = const ROOT::RVecI &;
using Result = ROOT::RDF::RResultPtr<TH1D>;

const ROOT::RDF::TH1DModel model{"h", "", 36, 70, 180};

Bins contents(std::vector<Result> results)
{
   Bins bins;
   for (auto &result : results)
      for (int i = 1; i <= 36; ++i)
         bins.push_back(result->GetBinContent(i));
   return bins;
}

Bins tutorial(const std::string &path)
{
   ROOT::RDataFrame df("Events", path);
   auto h_4mu = reco_higgs_to_4mu(df).Histo1D(model, "H_mass");
   auto h_4el = reco_higgs_to_4el(df).Histo1D(model, "H_mass");
   auto h_2el2mu = reco_higgs_to_2el2mu(df).Histo1D(model, "H_mass");
   return contents({h_4mu, h_4el, h_2el2mu});
}

// ---------------------------------------------------------------------------------------------------- typed

bool isolated(RVecF iso) { return All(abs(iso) < 0.40); }
bool prompt(RVecF dxy, RVecF dz, RVecF dxy_error, RVecF dz_error)
{
   const auto sip = sqrt(dxy * dxy + dz * dz) / sqrt(dxy_error * dxy_error + dz_error * dz_error);
   return All(sip < 4) && All(abs(dxy) < 0.5) && All(abs(dz) < 1.0);
}
bool two_of_each_charge(RVecI charge) { return charge.size() == 4 && Sum(charge == 1) == 2 && Sum(charge == -1) == 2; }

RNode typed_four(RNode df, const std::string &l, const std::string &iso, float pt_min, float eta_max)
{
   auto column = [&l](const char *name) { return l + "_" + name; };
   auto separate = [](const RVec<RVec<size_t>> &idx, cRVecF eta, cRVecF phi) {
      for (const auto &pair : idx)
         if (DeltaR(eta[pair[0]], eta[pair[1]], phi[pair[0]], phi[pair[1]]) < 0.02)
            return false;
      return true;
   };
   auto in_windows = [](RVecF z) { return z[0] > 40 && z[0] < 120 && z[1] > 12 && z[1] < 120; };
   return df.Filter([](unsigned n) { return n >= 4; }, {"n" + l})
      .Filter(isolated, {column(iso.c_str())})
      .Filter([=](RVecF pt, RVecF eta) { return All(pt > pt_min) && All(abs(eta) < eta_max); }, {column("pt"), column("eta")})
      .Filter(prompt, {column("dxy"), column("dz"), column("dxyErr"), column("dzErr")})
      .Filter(two_of_each_charge, {column("charge")})
      .Define("Z_idx", reco_zz_to_4l, {column("pt"), column("eta"), column("phi"), column("mass"), column("charge")})
      .Filter(separate, {"Z_idx", column("eta"), column("phi")})
      .Define("Z_mass", compute_z_masses_4l, {"Z_idx", column("pt"), column("eta"), column("phi"), column("mass")})
      .Filter(in_windows, {"Z_mass"})
      .Define("H_mass", compute_higgs_mass_4l, {"Z_idx", column("pt"), column("eta"), column("phi"), column("mass")});
}

bool hard_pair(RVecF pt)
{
   const auto sorted = Reverse(Sort(pt));
   return sorted[0] > 20 && sorted[1] > 10;
}

RNode typed_two_each(RNode df)
{
   const std::vector<std::string> kinematics{"Electron_pt", "Electron_eta", "Electron_phi", "Electron_mass",
                                             "Muon_pt",     "Muon_eta",     "Muon_phi",     "Muon_mass"};
   auto in_windows = [](RVecF z) { return z[0] > 40 && z[0] < 120 && z[1] > 12 && z[1] < 120; };
   return df.Filter([](unsigned e, unsigned m) { return e >= 2 && m >= 2; }, {"nElectron", "nMuon"})
      .Filter([](RVecF e, RVecF m) { return All(abs(e) < 2.5f) && All(abs(m) < 2.4f); }, {"Electron_eta", "Muon_eta"})
      .Filter([](RVecF m, RVecF e) { return hard_pair(m) || hard_pair(e); }, {"Muon_pt", "Electron_pt"})
      .Filter(
         [](RVecF m_eta, RVecF m_phi, RVecF e_eta, RVecF e_phi) {
            return !(DeltaR(m_eta[0], m_eta[1], m_phi[0], m_phi[1]) < 0.02 || DeltaR(e_eta[0], e_eta[1], e_phi[0], e_phi[1]) < 0.02);
         },
         {"Muon_eta", "Muon_phi", "Electron_eta", "Electron_phi"})
      .Filter([](RVecF e, RVecF m) { return isolated(e) && isolated(m); }, {"Electron_pfRelIso03_all", "Muon_pfRelIso04_all"})
      .Filter(prompt, {"Electron_dxy", "Electron_dz", "Electron_dxyErr", "Electron_dzErr"})
      .Filter(prompt, {"Muon_dxy", "Muon_dz", "Muon_dxyErr", "Muon_dzErr"})
      .Filter([](RVecI e, RVecI m) { return Sum(e) == 0 && Sum(m) == 0; }, {"Electron_charge", "Muon_charge"})
      .Define("Z_mass", compute_z_masses_2el2mu, kinematics)
      .Filter(in_windows, {"Z_mass"})
      .Define("H_mass", compute_higgs_mass_2el2mu, kinematics);
}

Bins typed(const std::string &path)
{
   ROOT::RDataFrame df("Events", path);
   return contents({typed_four(df, "Muon", "pfRelIso04_all", 5, 2.4f).Histo1D<float>(model, "H_mass"),
                    typed_four(df, "Electron", "pfRelIso03_all", 7, 2.5f).Histo1D<float>(model, "H_mass"),
                    typed_two_each(df).Histo1D<float>(model, "H_mass")});
}

// ---------------------------------------------------------------------------------------------------- lean

bool good(float pt, float eta, float iso, float dxy, float dz, float dxy_error, float dz_error, float pt_min, float eta_max)
{
   if (!(std::abs(iso) < 0.40f && pt > pt_min && std::abs(eta) < eta_max && std::abs(dxy) < 0.5f && std::abs(dz) < 1.0f))
      return false;
   return std::sqrt(dxy * dxy + dz * dz) / std::sqrt(dxy_error * dxy_error + dz_error * dz_error) < 4;
}

bool all_good(RVecF pt, RVecF eta, RVecF iso, RVecF dxy, RVecF dz, RVecF dxy_error, RVecF dz_error, float pt_min, float eta_max)
{
   for (size_t i = 0; i < pt.size(); ++i)
      if (!good(pt[i], eta[i], iso[i], dxy[i], dz[i], dxy_error[i], dz_error[i], pt_min, eta_max))
         return false;
   return true;
}

bool in_windows(const ROOT::RVecF &z) { return z[0] > 40 && z[0] < 120 && z[1] > 12 && z[1] < 120; }

float lean_four(RVecF pt, RVecF eta, RVecF phi, RVecF mass, RVecI charge)
{
   const auto idx = reco_zz_to_4l(pt, eta, phi, mass, charge);
   for (const auto &pair : idx)
      if (DeltaR(eta[pair[0]], eta[pair[1]], phi[pair[0]], phi[pair[1]]) < 0.02)
         return -1;
   return in_windows(compute_z_masses_4l(idx, pt, eta, phi, mass)) ? compute_higgs_mass_4l(idx, pt, eta, phi, mass) : -1;
}

RNode lean_channel(RNode df, const std::string &l, const std::string &iso, float pt_min, float eta_max)
{
   auto column = [&l](const std::string &name) { return l + "_" + name; };
   return df.Filter([](unsigned n) { return n == 4; }, {"n" + l})
      .Filter(
         [=](RVecF pt, RVecF eta, RVecF i, RVecF dxy, RVecF dz, RVecF dxy_e, RVecF dz_e) {
            return all_good(pt, eta, i, dxy, dz, dxy_e, dz_e, pt_min, eta_max);
         },
         {column("pt"), column("eta"), column(iso), column("dxy"), column("dz"), column("dxyErr"), column("dzErr")})
      .Filter(two_of_each_charge, {column("charge")})
      .Define("H_mass", lean_four, {column("pt"), column("eta"), column("phi"), column("mass"), column("charge")});
}

RNode lean_two_each(RNode df)
{
   return df.Filter([](unsigned e, unsigned m) { return e >= 2 && m >= 2; }, {"nElectron", "nMuon"})
      .Filter([](RVecI e, RVecI m) { return Sum(e) == 0 && Sum(m) == 0; }, {"Electron_charge", "Muon_charge"})
      .Filter(
         [](RVecF pt, RVecF eta, RVecF i, RVecF dxy, RVecF dz, RVecF dxy_e, RVecF dz_e) {
            return all_good(pt, eta, i, dxy, dz, dxy_e, dz_e, -1e30f, 2.4f);
         },
         {"Muon_pt", "Muon_eta", "Muon_pfRelIso04_all", "Muon_dxy", "Muon_dz", "Muon_dxyErr", "Muon_dzErr"})
      .Filter(
         [](RVecF pt, RVecF eta, RVecF i, RVecF dxy, RVecF dz, RVecF dxy_e, RVecF dz_e) {
            return all_good(pt, eta, i, dxy, dz, dxy_e, dz_e, -1e30f, 2.5f);
         },
         {"Electron_pt", "Electron_eta", "Electron_pfRelIso03_all", "Electron_dxy", "Electron_dz", "Electron_dxyErr",
          "Electron_dzErr"})
      .Define("H_mass",
              [](RVecF e_pt, RVecF e_eta, RVecF e_phi, RVecF e_mass, RVecF m_pt, RVecF m_eta, RVecF m_phi, RVecF m_mass) {
                 if (!(hard_pair(m_pt) || hard_pair(e_pt)) || DeltaR(m_eta[0], m_eta[1], m_phi[0], m_phi[1]) < 0.02 ||
                     DeltaR(e_eta[0], e_eta[1], e_phi[0], e_phi[1]) < 0.02)
                    return -1.f;
                 if (!in_windows(compute_z_masses_2el2mu(e_pt, e_eta, e_phi, e_mass, m_pt, m_eta, m_phi, m_mass)))
                    return -1.f;
                 return compute_higgs_mass_2el2mu(e_pt, e_eta, e_phi, e_mass, m_pt, m_eta, m_phi, m_mass);
              },
              {"Electron_pt", "Electron_eta", "Electron_phi", "Electron_mass", "Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass"});
}

Bins lean(const std::string &path)
{
   ROOT::RDataFrame all("Events", path);
   auto df = all.Filter([](unsigned m, unsigned e) { return m >= 4 || e >= 4 || (m >= 2 && e >= 2); }, {"nMuon", "nElectron"});
   return contents({lean_channel(df, "Muon", "pfRelIso04_all", 5, 2.4f).Histo1D<float>(model, "H_mass"),
                    lean_channel(df, "Electron", "pfRelIso03_all", 7, 2.5f).Histo1D<float>(model, "H_mass"),
                    lean_two_each(df).Histo1D<float>(model, "H_mass")});
}

} // namespace bench
