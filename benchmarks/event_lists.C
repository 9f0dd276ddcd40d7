// Which events the lean graph of rdataframe.C selects, per channel (4mu, 4e, 2e2mu), by their event numbers.

#include "rdataframe.C"

namespace bench {

std::vector<std::vector<ULong64_t>> event_lists(const std::string &path)
{
   ROOT::RDataFrame all("Events", path);
   auto df = all.Filter([](unsigned m, unsigned e) { return m >= 4 || e >= 4 || (m >= 2 && e >= 2); }, {"nMuon", "nElectron"});
   std::vector<ROOT::RDF::RResultPtr<std::vector<ULong64_t>>> lists;
   for (auto &&channel : {lean_channel(df, "Muon", "pfRelIso04_all", 5, 2.4f), lean_channel(df, "Electron", "pfRelIso03_all", 7, 2.5f), lean_two_each(df)}) {
      auto node = channel;
      lists.push_back(node.Filter([](float mass) { return mass > 0; }, {"H_mass"}).Take<ULong64_t>("event"));
   }
   std::vector<std::vector<ULong64_t>> found;
   for (auto &list : lists)
      found.push_back(*list);
   return found;
}

} // namespace bench
