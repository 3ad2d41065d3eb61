"""Ends Python where it should raise an error."""

import sys

sys.exit("no licence found")
