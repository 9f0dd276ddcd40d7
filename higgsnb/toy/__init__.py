"""Stands for `higgsnb.toy_physics` while that is being split."""

import sys

from higgsnb import toy_physics

sys.modules[__name__] = toy_physics
