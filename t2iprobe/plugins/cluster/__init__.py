"""Studies on a Ray cluster, an extra: ``pip install 't2iprobe[ray]'``."""
