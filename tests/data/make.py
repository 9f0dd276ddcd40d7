"""Make the ROOT-written files beside this script, in forms that uproot does not write; needs ROOT 6.36 or newer.

    python tests/data/make.py

All hold the same 600 events: `unaligned.root` with small baskets that no two branches share, `generated-offsets.root`
without entry offsets, `embedded.root` with its last baskets in the header of the tree, `converted.root` as an RNTuple.

The files `form-*.root` hold nine events of the outreach schema, whose numbers have other types than CERN's files.
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


FORMS = {
    "counter-uint64": ("ULong64_t", "float", "l", "F"),
    "long": ("int", "Long64_t", "I", "G"),
    "float16": ("int", "float", "I", "f"),
    "float16-range": ("int", "float", "I", "f[0,0,10]"),
    "double32": ("int", "double", "I", "d"),
    "double32-range": ("int", "double", "I", "d[-500,500,20]"),
}
"""Types of counters and of the other numbers, in C++ and as leaf codes; "long" has charges of that type, and floats."""
FORM_WRITER = """
template <class Counter, class Number> void write_form(const char *path, const char *counter, const char *number)
{
   TFile file(path, "RECREATE", "", 207);
   TTree *tree = new TTree("Events", "Events");
   const bool is_long = number[0] == 'G';
   int run = 1, charge[2][5];
   unsigned lumi = 1;
   ULong64_t event;
   Counter n[2];
   Number value[2][9][5];
   float plain[2][9][5];
   tree->Branch("run", &run, "run/I");
   tree->Branch("luminosityBlock", &lumi, "luminosityBlock/i");
   tree->Branch("event", &event, "event/l");
   const char *names[9] = {"pt", "eta", "phi", "mass", "dxy", "dxyErr", "dz", "dzErr", ""};
   Number charges[2][5];
   for (int f = 0; f < 2; ++f) {
      const std::string l = f ? "Electron" : "Muon", size = "[n" + l + "]";
      tree->Branch(("n" + l).c_str(), &n[f], ("n" + l + "/" + counter).c_str());
      void *at = is_long ? (void *)charges[f] : (void *)charge[f];
      tree->Branch((l + "_charge").c_str(), at, (l + "_charge" + size + (is_long ? "/G" : "/I")).c_str());
      for (int k = 0; k < 9; ++k) {
         const std::string name = l + "_" + (k < 8 ? names[k] : f ? "pfRelIso03_all" : "pfRelIso04_all");
         void *values = is_long ? (void *)plain[f][k] : (void *)value[f][k];
         tree->Branch(name.c_str(), values, (name + size + "/" + (is_long ? "F" : number)).c_str());
      }
   }
   for (int i = 0; i < 9; ++i) {
      event = i;
      for (int f = 0; f < 2; ++f) {
         n[f] = (i + 2 * f) % 5;
         for (int j = 0; j < 5; ++j) {
            charges[f][j] = charge[f][j] = j % 2 ? 1 : -1;
            for (int k = 0; k < 9; ++k)
               value[f][k][j] = plain[f][k][j] = 0.5f * k + j + 8 * i;
         }
      }
      tree->Fill();
   }
   tree->Write();
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
    ROOT.gInterpreter.Declare(FORM_WRITER)
    for name, (counter, number, counter_code, code) in FORMS.items():
        ROOT.write_form[counter, number](str(folder / f"form-{name}.root"), counter_code, code)


if __name__ == "__main__":
    main()
