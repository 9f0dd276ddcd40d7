"""What to analyse: campaigns of datasets, and their split into chunks."""

from higgsnb.campaign import Campaign, Chunk, Dataset, File
from higgsnb.chunks import check_totals, plan_chunks, same_files
from higgsnb.errors import CampaignError
from higgsnb.parse import load, names

__all__ = [
    "Campaign",
    "CampaignError",
    "Chunk",
    "Dataset",
    "File",
    "check_totals",
    "load",
    "names",
    "plan_chunks",
    "same_files",
]
