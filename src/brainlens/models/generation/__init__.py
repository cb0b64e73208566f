"""Models that draw: region tokens in a diffusion network, and the encoder that chooses among what they drew."""
