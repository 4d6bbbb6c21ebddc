"""Writes unlearn/track/testdata/events.tfevents with TensorBoard's own writer, for the test of ours.

Wants tensorboard 2.20.0: python scripts/golden/events.py
"""

import pathlib

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

STEPS = [
    ("unlearn", 0, 1767225600.5, {"hits": 16.0, "loss": 2.25}),
    ("unlearn", 1, 1767225601.25, {"hits": 0.0, "loss": -0.1}),
    ("train", 300, 1767225602.0, {"accuracy": 1.0 / 3.0}),
    ("train", 1 << 40, 1767225603.0, {"loss": float("inf")}),
]

out = pathlib.Path(__file__).parents[2] / "unlearn/track/testdata/events.tfevents"
with open(out, "wb") as f:
    writer = RecordWriter(f)
    writer.write(Event(wall_time=1767225600.0, file_version="brain.Event:2").SerializeToString())
    for phase, step, time, values in STEPS:
        summary = Summary(value=[Summary.Value(tag=f"{phase}/{k}", simple_value=v) for k, v in sorted(values.items())])
        writer.write(Event(wall_time=time, step=step, summary=summary).SerializeToString())
    writer.flush()
