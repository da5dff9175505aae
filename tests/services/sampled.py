"""Running the sample stage and looking at what it wrote."""

import json

import numpy as np
from PIL import Image

from mdt_cli.services.events import SamplesDone
from mdt_cli.services.sample.sample import sample


def run(request):
    events = list(sample(request))
    assert isinstance(events[-1], SamplesDone)
    return events[-1], events


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def manifest(folder):
    return json.loads((folder / "samples.json").read_text("utf-8"))
