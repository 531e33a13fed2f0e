"""What is asked of each task: realistic requests, and whether an answer is one. By the names of Medley's tasks."""

from loadtest.tasks import chat, embeddings, images, styles, upscaling
from loadtest.tasks.task import Kind

KINDS: dict[str, Kind] = {
    "chat": chat.Chat(),
    "embeddings": embeddings.Embeddings(),
    "images": images.Images(),
    "upscaling": upscaling.Upscaling(),
    "styles": styles.Styles(),
}
