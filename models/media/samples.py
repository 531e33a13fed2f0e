"""Small media for samples."""

import base64

_GREY = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAK0lEQVR42u3MMREAAAgEoNfkRjeEmwcBqMlNRyAQCAQCgUAgEAgEAsHzYAFAdAEArKm"
    "lZAAAAABJRU5ErkJggg=="
)
GREY = base64.b64decode(_GREY)
"""A grey picture of 64x64 pixels, a PNG of 100 bytes."""
GREY_URL = "data:image/png;base64," + _GREY
"""The same as a data URL, the form in JSON bodies."""
