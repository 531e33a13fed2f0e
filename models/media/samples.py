"""Small media to try things with."""

import base64

GREY = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAK0lEQVR42u3MMREAAAgEoNfkRjeEmwcBqMlNRyAQCAQCgUAgEAgEAsHzYAFAdAEArKm"
    "lZAAAAABJRU5ErkJggg=="
)
"""A grey picture of 64x64 pixels, a PNG of 100 bytes."""
