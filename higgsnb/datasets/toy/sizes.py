"""How large the files of the campaign ``toy`` are, for estimates made before they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from higgsnb.datasets.files.addresses import Address

if TYPE_CHECKING:
    from higgsnb.datasets.campaign import Campaign, File

SIZES = {
    "SMHiggsToZZTo4L": (30_000, 3_049_777),
    "ZZTo4mu": (12_000, 1_650_716),
    "ZZTo4e": (16_000, 1_733_050),
    "ZZTo2e2mu": (12_000, 1_622_345),
    "ReducibleZX": (10_000, 1_406_341),
    "Run2012_DoubleMu": (24_748, 2_560_553),
    "Run2012_DoubleElectron": (16_450, 1_651_819),
}
"""Events and bytes by dataset. Another machine may make a few more or fewer: no result is compared with these."""


def with_toy_sizes(campaign: Campaign) -> Campaign:
    """Return the campaign with events and bytes of its ``toy:`` files filled in where it does not state them.

    For estimates only: a file that is analysed is not compared with them.
    """

    def known(file: File) -> File:
        address = Address.of(file.url)
        if address.scheme != "toy" or (found := SIZES.get(address.name.removesuffix(".root"))) is None:
            return file
        events, size = found
        return replace(file, events=events if file.events is None else file.events, bytes=file.bytes or size)

    datasets = (replace(dataset, files=tuple(map(known, dataset.files))) for dataset in campaign.datasets)
    return replace(campaign, datasets=tuple(datasets))
