"""What loggers have written, read back by their own clients."""

import contextlib
import json
import struct
import time
from pathlib import Path

import pytest


def assert_series(found, expected, rel=1e-6):
    assert [step for step, _ in found] == [step for step, _ in expected]
    values, wanted = [value for _, value in found], [value for _, value in expected]
    assert values == pytest.approx(wanted, rel=rel, nan_ok=True)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def wandb_records(folder):
    """The records of an offline run, once W&B's own process has written the last one."""
    from google.protobuf.message import DecodeError

    (file,) = Path(folder).rglob("*.wandb")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(DecodeError, struct.error):
            records = list(records_in(file.read_bytes()))
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def records_in(data):
    """What is in a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, parts = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def items_of(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_rows(folder):
    return [items_of(r.history.item) for r in wandb_records(folder) if r.WhichOneof("record_type") == "history"]


def metric_series(client, run_id, name):
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
