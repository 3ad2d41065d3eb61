"""Try an intervention by hand: cells on a board of layers and denoising steps, and the picture follows. No web here."""
