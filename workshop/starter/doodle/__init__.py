"""Doodle: a small Stable Diffusion trained here, from drawn shapes and emoji.

models/starter/doodle/README.md says what it can do.

The recipe, in order: `drawings` and `emoji_pictures` make pictures with captions, `train` the autoencoder and denoiser,
`distill` the few-step denoiser, `judge` says whether a picture shows what its caption says.
"""
