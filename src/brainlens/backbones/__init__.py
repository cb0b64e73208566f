"""Pretrained networks as layered features: vision models, CLIP, diffusion models, captioners."""
