// Z -> mumu in RDataFrame, twice: typed lambdas with the vector functions of ROOT, and one compiled function per event.
// Each returns 2 x 60 bins of the dimuon mass, opposite charges first.

#include <ROOT/RDataFrame.hxx>
#include <ROOT/RVec.hxx>
#include <Math/Vector4D.h>
#include <TROOT.h>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace zmumu {

using Bins = std::vector<double>;
using RVecF = const ROOT::RVecF &;
using RVecI = const ROOT::RVecI &;
using Result = ROOT::RDF::RResultPtr<TH1D>;

const ROOT::RDF::TH1DModel model{"h", "", 60, 60, 120};

Bins contents(std::vector<Result> results)
{
   Bins bins;
   for (auto &result : results)
      for (int i = 1; i <= 60; ++i)
         bins.push_back(result->GetBinContent(i));
   return bins;
}

Bins typed(const std::string &path)
{
   ROOT::RDataFrame all("Events", path);
   auto two = all.Filter([](unsigned n) { return n >= 2; }, {"nMuon"})
                 .Define("good", [](RVecF pt, RVecF eta) { return pt > 20 && abs(eta) < 2.4f; }, {"Muon_pt", "Muon_eta"})
                 .Filter([](RVecI good) { return Sum(good) == 2; }, {"good"})
                 .Define("mass",
                         [](RVecI good, RVecF pt, RVecF eta, RVecF phi, RVecF mass) {
                            return InvariantMass(pt[good], eta[good], phi[good], mass[good]);
                         },
                         {"good", "Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass"})
                 .Define("charge", [](RVecI good, RVecI charge) { return Sum(charge[good]); }, {"good", "Muon_charge"});
   auto opposite = two.Filter([](int charge) { return charge == 0; }, {"charge"});
   auto same = two.Filter([](int charge) { return charge != 0; }, {"charge"});
   return contents({opposite.Histo1D<float>(model, "mass"), same.Histo1D<float>(model, "mass")});
}

// The mass of the two good muons, negative for equal charges, and 0 if there are not exactly two.
double dimuon(RVecF pt, RVecF eta, RVecF phi, RVecF mass, RVecI charge)
{
   int found = 0;
   size_t good[2];
   for (size_t i = 0; i < pt.size(); ++i)
      if (pt[i] > 20 && std::abs(eta[i]) < 2.4f) {
         if (found == 2)
            return 0;
         good[found++] = i;
      }
   if (found != 2)
      return 0;
   using Vector = ROOT::Math::PtEtaPhiMVector;
   const auto a = good[0], b = good[1];
   const auto sum = Vector(pt[a], eta[a], phi[a], mass[a]) + Vector(pt[b], eta[b], phi[b], mass[b]);
   return charge[a] != charge[b] ? sum.M() : -sum.M();
}

Bins lean(const std::string &path)
{
   ROOT::RDataFrame all("Events", path);
   auto two = all.Filter([](unsigned n) { return n >= 2; }, {"nMuon"})
                 .Define("signed", dimuon, {"Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass", "Muon_charge"});
   auto opposite = two.Filter([](double m) { return m > 0; }, {"signed"});
   auto same = two.Filter([](double m) { return m < 0; }, {"signed"}).Define("mass", [](double m) { return -m; }, {"signed"});
   return contents({opposite.Histo1D<double>(model, "signed"), same.Histo1D<double>(model, "mass")});
}

} // namespace zmumu
