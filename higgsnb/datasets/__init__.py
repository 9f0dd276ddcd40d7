"""Stands for `higgsnb.parse` while that is being split."""

import sys

from higgsnb import parse

sys.modules[__name__] = parse
