"""Stands for `higgsnb.read` while that is being split."""

import sys

from higgsnb import read

sys.modules[__name__] = read
