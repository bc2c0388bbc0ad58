"""Which pretrained model should be fine-tuned for this data set?

import transferjax
table = transferjax.rank_sources(["photos", "digits", "retina"], "mri_tissue")
print(table.wide())
"""

from transferjax._validate import InputError
from transferjax._version import __version__
from transferjax.ranking import rank_sources
from transferjax.types import ScoreTable, SourceModel, TargetDataset, TransferPair

__all__ = ["InputError", "ScoreTable", "SourceModel", "TargetDataset", "TransferPair", "__version__", "rank_sources"]
