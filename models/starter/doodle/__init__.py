"""Doodle: a small Stable Diffusion trained here, from drawn shapes and emoji. See README.md for what it can do.

The recipe, in order: `drawings` and `emoji` make pictures with captions, `train` the autoencoder and the denoiser,
`distill` the few-step denoiser, `judge` says whether a picture shows what its caption says.
"""
