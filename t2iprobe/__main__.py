"""``python -m t2iprobe`` is the command ``t2iprobe``."""

from t2iprobe.cli import main

main()
