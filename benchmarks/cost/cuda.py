"""Everything that needs a GPU, in one command that takes at most 8 minutes on one.

    python benchmarks/cost/cuda.py [PART ...] [--out benchmarks/results/cuda.md] [--seconds 470]

Each part runs in a process of its own with its own limit of time, and its lines are written as soon as it ends:
one that fails, even by an error that makes the device unusable for its process, leaves the others their figures.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cost import nets, overhead
from benchmarks.cost.cuda_setups import SETUPS, Agrees, difference, plain
from benchmarks.cost.loop import Loop
from benchmarks.cost.timing import fastest
from benchmarks.report import Report
from gradprobe.measure.reduction import Reducer, on_device
from gradprobe.measure.reduction.prepare import prepare
from gradprobe.measure.reduction.samples import described

EXPLANATION = """\
Each part ran in a process of its own. Set-ups: the largest relative difference of a mean |gradient| of any layer
in any iteration from the record of the same training on the CPU in float32. Networks: what the profiler counts in
one step, then the overhead as in overhead.md."""
PACKAGES = ["torch", "triton", "transformers", "monai"]
SCANS = 200


def kernels(report: Report, device: str) -> None:
    """Whether the kernels that read once are used and right, and how fast they read."""
    one = torch.device(device, 0) if device != "cpu" else torch.device(device)
    started = time.perf_counter()
    prepare([one])
    report.add(f"In use: {on_device.in_use(one)}, prepared in {time.perf_counter() - started:.1f} s.", "")
    report.columns("gradients", "type", "largest difference from float64", "one reading, GB/s", "torch.sum, GB/s")
    for dtype in on_device.DTYPES:
        for name, sizes in (("1 of 256 M", [2**28]), ("1 of 1 M", [2**20]), ("500 of 10,000", [10_000] * 500)):
            given = [torch.randn(size, device=device).to(dtype) for size in (sizes if device != "cpu" else [999])]
            report.row(name, str(dtype).removeprefix("torch."), *speeds(given))
    shapes = [(16, 17, 9), (8, 256, 1), (2, 3, 4)] * 40
    outputs = [torch.randn(shape, device=device).mul(3).relu() for shape in shapes]
    rows, expected = described(outputs)[0].cpu(), torch.cat([described([one.cpu()])[0] for one in outputs])
    apart = float(((rows - expected).abs() / expected.clamp(min=1e-6)).max())
    report.add(
        f"Statistics of {len(outputs)} samples of outputs in one launch: {apart:.1e} from the CPU's, at most."
    )


def speeds(gradients: list[torch.Tensor]) -> tuple[str, str, str]:
    """How exact a reading of gradients is, and how fast."""
    reducer = Reducer()
    rows = reducer.same(gradients).double().cpu()
    sizes = [gradient.double().abs() for gradient in gradients]
    exact = torch.tensor([[float(one.sum()), float(one.norm()), float(one.amax())] for one in sizes]).double()
    apart = float(((rows[:, :3] - exact).abs() / exact).max())
    del sizes
    gigabytes = sum(gradient.nbytes for gradient in gradients) / 1e9
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    ours, torchs = (gigabytes / fastest(call, 20) for call in (lambda: reducer.same(gradients), flat.sum))
    return f"{apart:.1e}", f"{ours:,.0f}", f"{torchs:,.0f}"


def setups(report: Report, device: str, names: list[str]) -> None:
    """The records of set-ups against those of the CPU."""
    torch.backends.cudnn.allow_tf32 = False
    expected = plain("cpu")
    report.columns("set-up", "largest difference", "")
    for name in names:
        run, bound = SETUPS[name]
        try:
            apart = difference(run(device), expected)
        except Agrees:
            report.row(name, "", "as it should be")
        except Exception as error:
            report.row(name, "", f"FAILED: {type(error).__name__}: {str(error)[:300]!r}")
        else:
            report.row(name, f"{apart:.1e}", "agrees" if apart <= bound else f"FAILED: above {bound}")


def eager(report: Report, device: str) -> None:
    """Set-ups without a compiler."""
    setups(report, device, [name for name in SETUPS if "compile" not in name and "reduce" not in name])


def compilers(report: Report, device: str) -> None:
    """Set-ups with one."""
    setups(report, device, [name for name in SETUPS if "compile" in name or "reduce" in name])


def memory(report: Report, device: str) -> None:
    """What is left on the device after many scans."""
    import gradprobe as gp

    scans = SCANS if device != "cpu" else 10
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(20))).to(device)
    batches = [(torch.randn(32, 64, device=device), torch.randint(64, (32,), device=device))] * 2
    allocated = []
    for _ in range(scans):
        gp.scan(model, batches, torch.nn.functional.cross_entropy, iterations=2)
        allocated.append(torch.cuda.memory_allocated() if device != "cpu" else 0)
    first, tenth, last = (f"{allocated[index]:,}" for index in (0, 9, -1))
    report.add(f"Bytes in use after scan 1, 10 and {scans}: {first}, {tenth}, {last}.")


def resnet50() -> nets.Training:
    """ResNet-50 of transformers at 224x224, batch 64."""
    return nets.resnet50(batch=64)


def gpt2() -> nets.Training:
    """GPT-2 small of transformers in bfloat16, 8 sequences of 1,024 tokens."""
    model = nets.gpt2().model.to(torch.bfloat16)
    tokens = torch.randint(50257, (8, 1025))
    return nets.Training(model, tokens[:, :-1], tokens[:, 1:])


NETS: dict[str, Callable[[], nets.Training]] = {
    "resnet50": resnet50,
    "gpt2": gpt2,
    "unet": nets.unet,
    "deep": nets.deep,
}


def cost(name: str, report: Report, device: str) -> None:
    """The overhead of a probe on one network, and what the profiler counts."""
    seconds = 30 if device != "cpu" else 1
    options = argparse.Namespace(device=device, modes=list(overhead.MODES), rounds=30, seconds=seconds)
    options.no_peers = device == "cpu"
    profiled(report, name, device)
    overhead.examine(name, NETS[name], options, report)


def profiled(report: Report, name: str, device: str) -> None:
    """Kernels, copies and time on the device in one step, bare and with a probe."""
    loop = Loop(NETS[name]().to(torch.device(device)), momentum=0.9)
    report.columns("profiled", "kernels", "copies to the host", "other copies", "on the device, ms")
    for mode in ("bare", *overhead.MODES):
        probe = loop.probe(**overhead.MODES[mode]) if mode != "bare" else contextlib.nullcontext()
        with probe:
            for _ in range(5):  # the fifth is looked at, the sixth is as most are
                loop.step()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as found:
                loop.step()
                if device != "cpu":
                    torch.cuda.synchronize()
        events = [event for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        names = [event.name for event in events]
        copies = [one for one in names if "Memcpy" in one]
        to_host = sum("DtoH" in one for one in copies)
        spent = sum(event.time_range.elapsed_us() for event in events) / 1e3
        report.row(mode, len(names) - len(copies), to_host, len(copies) - to_host, f"{spent:.2f}")
    report.add("")


class Part(NamedTuple):
    """A part.

    Attributes:
        run: Measures and adds its lines.
        limit: Seconds that it may take.
    """

    run: Callable[[Report, str], None]
    limit: int


PARTS = {
    "kernels": Part(kernels, 60),
    "set-ups": Part(eager, 50),
    "resnet50": Part(lambda report, device: cost("resnet50", report, device), 65),
    "gpt2": Part(lambda report, device: cost("gpt2", report, device), 65),
    "deep": Part(lambda report, device: cost("deep", report, device), 65),
    "unet": Part(lambda report, device: cost("unet", report, device), 60),
    "compilers": Part(compilers, 75),
    "memory": Part(memory, 45),
}


def run_part(name: str, device: str, seconds: float) -> list[str]:
    """The lines of a part, run in a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        command = [sys.executable, __file__, "--inside", name, "--device", device, "--lines", str(lines)]
        try:
            result = subprocess.run(command, timeout=seconds, capture_output=True, text=True, env={**os.environ})
            failed = "" if result.returncode == 0 else f"exit status {result.returncode}: {result.stderr[-1500:]}"
        except subprocess.TimeoutExpired:
            failed = f"not done after {seconds:.0f} s"
        found = lines.read_text().splitlines() if lines.exists() else []
    end = [f"FAILED: {failed}"] if failed else []
    return [f"## Part: {name}", "", *found, *end, "", f"{time.perf_counter() - started:.0f} s.", ""]


class Lines(Report):
    """Lines that are written to a file as soon as they are added."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *lines: str) -> None:
        """Add lines of Markdown as they are."""
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


def main() -> None:
    """Run all parts and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=470, help="for everything")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        PARTS[options.inside].run(Lines(options.lines), options.device)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this needs a GPU and a build of torch for it; --device cpu tries the script alone")
    end = time.perf_counter() + options.seconds
    report = Report("gradprobe on a GPU", EXPLANATION, packages=PACKAGES, device=options.device)
    for name in options.parts or PARTS:
        left = end - time.perf_counter()
        limit = PARTS[name].limit if options.device != "cpu" else left
        report.add(*run_part(name, options.device, min(left, limit)) if left > 5 else [f"No time: {name}"])
        report.write(options.out)


if __name__ == "__main__":
    main()
