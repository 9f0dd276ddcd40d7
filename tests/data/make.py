"""Make the ROOT-written files beside this script, in forms that uproot does not write; needs ROOT 6.36 or newer.

    python tests/data/make.py

All hold the same 600 events: `unaligned.root` with small baskets that no two branches share, `generated-offsets.root`
without entry offsets, `embedded.root` with its last baskets in the header of the tree, `converted.root` as an RNTuple.
"""

from __future__ import annotations

from pathlib import Path

import ROOT

WRITER = """
void write_shape(const char *path, int basket_bytes, bool leave_out_offsets, bool embed, bool with_vector,
                 int compression)
{
   TFile file(path, "RECREATE", "", compression);
   TTree *tree = new TTree("Events", "Events", 0, &file);
   tree->SetAutoFlush(0);
   tree->SetAutoSave(0);
   if (leave_out_offsets) {
      ROOT::TIOFeatures features;
      features.Set("kGenerateOffsetMap");
      tree->SetIOFeatures(features);
   }
   int run, charge[2][8];
   unsigned lumi, n[2];
   ULong64_t event;
   float pt[2][8];
   std::vector<float> extra;
   tree->Branch("run", &run, "run/I", basket_bytes);
   tree->Branch("luminosityBlock", &lumi, "luminosityBlock/i", basket_bytes);
   tree->Branch("event", &event, "event/l", basket_bytes);
   for (int f = 0; f < 2; ++f) {
      const std::string l = f ? "Electron" : "Muon";
      const std::string size = "[n" + l + "]";
      tree->Branch(("n" + l).c_str(), &n[f], ("n" + l + "/i").c_str(), basket_bytes);
      tree->Branch((l + "_pt").c_str(), pt[f], (l + "_pt" + size + "/F").c_str(), basket_bytes);
      tree->Branch((l + "_charge").c_str(), charge[f], (l + "_charge" + size + "/I").c_str(), basket_bytes);
   }
   if (with_vector)
      tree->Branch("vector", &extra, basket_bytes, 0);
   TRandom3 random(7);
   for (int i = 0; i < 600; ++i) {
      run = 1 + i / 100;
      lumi = 1 + i / 10;
      event = 1000000000000ull + i;
      for (int f = 0; f < 2; ++f) {
         n[f] = random.Integer(6);
         for (unsigned k = 0; k < n[f]; ++k) {
            pt[f][k] = i + 0.125f * k;
            charge[f][k] = random.Integer(2) ? 1 : -1;
         }
      }
      extra.assign(n[0], 1.5f);
      tree->Fill();
      if (embed && i == 399)
         tree->FlushBaskets();
   }
   if (embed) { // a copy of the file as it is before the last baskets are flushed
      tree->AutoSave("SaveSelf");
      file.SaveSelf(true);
      gSystem->CopyFile(path, (std::string(path) + ".copy").c_str(), true);
   } else
      tree->Write("", TObject::kOverwrite);
   file.Close();
}
"""


def convert(source: Path, path: Path) -> None:
    """Turn a tree into an RNTuple with many small pages."""
    path.unlink(missing_ok=True)
    importer = ROOT.Experimental.RNTupleImporter.Create(str(source), "Events", str(path))
    options = importer.GetWriteOptions()
    options.SetCompression(505)
    options.SetMaxUnzippedPageSize(1024)
    options.SetInitialUnzippedPageSize(256)
    importer.SetWriteOptions(options)
    importer.SetIsQuiet(True)
    importer.Import()


def main() -> None:
    """Make all files."""
    folder = Path(__file__).parent
    ROOT.gInterpreter.Declare(WRITER)
    ROOT.write_shape(str(folder / "unaligned.root"), 512, False, False, True, 101)
    ROOT.write_shape(str(folder / "generated-offsets.root"), 512, True, False, False, 505)
    ROOT.write_shape(str(folder / "embedded.root"), 2000, False, True, False, 404)
    (folder / "embedded.root.copy").rename(folder / "embedded.root")
    plain = folder / "plain.root"
    ROOT.write_shape(str(plain), 512, False, False, False, 101)
    convert(plain, folder / "converted.root")
    plain.unlink()


if __name__ == "__main__":
    main()
