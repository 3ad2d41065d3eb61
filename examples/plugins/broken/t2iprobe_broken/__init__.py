"""Plugins that cannot work, each in its own way; ``t2iprobe plugins --check`` says what is wrong with each."""
