"""The server of most tutorials: FastAPI with one diffusers pipeline, called in the handler, one request at a time.

`MODEL_FOLDER=... uvicorn benchmarks.naive_images:app`
"""

import base64
import io
import os

import torch
from diffusers import StableDiffusionPipeline
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
pipeline = StableDiffusionPipeline.from_pretrained(os.environ["MODEL_FOLDER"], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)


class Body(BaseModel):
    prompt: str
    steps: int
    guidance: float
    side: int
    seed: int = 0


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/generate")
async def generate(body: Body) -> dict[str, str]:
    image = pipeline(
        body.prompt,
        num_inference_steps=body.steps,
        guidance_scale=body.guidance,
        width=body.side,
        height=body.side,
        generator=torch.Generator().manual_seed(body.seed),
    ).images[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"b64_json": base64.b64encode(file.getvalue()).decode()}
