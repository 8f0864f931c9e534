"""Ranks, wrappers and collectives with a single process, and what two processes draw in a training."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from stylekit import distributed
from stylekit.options import RunConfig
from stylekit.training.data import make_loader
from stylekit.training.run import Run

CPU = torch.device("cpu")


def fake_ddp(network: nn.Module) -> DistributedDataParallel:
    """DDP around a network without a process group."""
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = network
    return wrapper


class FakeCompiled(nn.Module):
    """What torch.compile returns, as far as `unwrap` looks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


def test_unwrap_finds_the_network_in_ddp_and_torch_compile():
    network = nn.Sequential(nn.Linear(1, 1))
    for wrapped in (network, fake_ddp(network), FakeCompiled(network), FakeCompiled(fake_ddp(network)),
                    fake_ddp(FakeCompiled(network))):  # fmt: skip
        assert distributed.unwrap(wrapped) is network


def test_unwrap_does_not_mistake_a_part_called_module_for_a_wrapper():
    network = nn.Module()
    network.module = nn.Linear(1, 1)
    assert distributed.unwrap(network) is network


def test_one_process_needs_no_ddp(monkeypatch):
    network = nn.Linear(1, 1)
    assert distributed.wrap_ddp(network, CPU) is network
    monkeypatch.setattr(torch, "compile", FakeCompiled)
    compiled = distributed.wrap_ddp(network, CPU, compile=True)
    assert isinstance(compiled, FakeCompiled) and distributed.unwrap(compiled) is network


def test_several_processes_wrap_the_network_in_ddp_before_it_is_compiled(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    built = []

    def ddp(network, device_ids):
        built.append(device_ids)
        return fake_ddp(network)

    class Fake(DistributedDataParallel):
        """Stands in for DDP, which needs a process group."""

        def __new__(cls, network, device_ids, broadcast_buffers):
            assert not broadcast_buffers
            return ddp(network, device_ids)

    monkeypatch.setattr(distributed, "DistributedDataParallel", Fake)
    monkeypatch.setattr(torch, "compile", FakeCompiled)
    network, gpu = nn.Linear(1, 1), torch.device("cuda", 1)
    assert distributed.wrap_ddp(network, CPU).module is network
    assert distributed.wrap_ddp(network, gpu, compile=True)._orig_mod.module is network
    assert built == [None, [gpu]]


def test_ranks_come_from_torchrun_and_one_process_is_the_main_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world_size(), distributed.local_world_size()) == (0, 1, 1)
    assert distributed.is_main()
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert (distributed.rank(), distributed.world_size(), distributed.local_world_size()) == (3, 4, 2)
    assert not distributed.is_main()


def test_one_process_agrees_with_itself():
    with distributed.process_group(CPU):
        assert not torch.distributed.is_initialized()
        assert distributed.all_max(3, 0.5) == [3, 0.5]
        assert distributed.all_mean(torch.tensor([1.0, 2.5], requires_grad=True)) == [1.0, 2.5]
        assert distributed.gather({"pool": 1}) == [{"pool": 1}]


def draw(folder: Path, steps: int, resume: bool = False) -> list[float]:
    """Train nothing, and draw a random number in every step."""
    options = dict(dataroot="unused", checkpoints_dir=folder, num_workers=0, device="cpu", amp="off")
    config = RunConfig.from_preset("paper", **options, max_steps=steps, resume=resume, lr_policy="constant")
    drawn = []
    with Run(config, fixed=()) as training:
        training.restore(SimpleNamespace(load_state_dict=lambda saved: None))
        for _ in training.batches(make_loader(TensorDataset(torch.zeros(8)), 8, config, training.device)):
            drawn.append(torch.rand(1).item())
            training.log({"loss": torch.zeros(())}, 0.1)
            if training.checkpoint_due:
                training.save({}, {})
    return drawn


def test_every_process_and_step_draws_other_numbers_and_a_resumed_run_those_of_its_steps(tmp_path):
    from conftest import run  # Here, since the processes do not need what it imports.

    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone", __file__)
    result = run(*torchrun, tmp_path / "two", 4)
    assert result.returncode == 0, result.stderr
    first, second = ([float(n) for n in (tmp_path / f"two-{rank}").read_text().split()] for rank in (0, 1))
    assert len({*first, *second}) == len(first) + len(second) == 8
    assert draw(tmp_path / "one", 2) + draw(tmp_path / "one", 4, resume=True) == first


if __name__ == "__main__":  # Started by torchrun.
    numbers = draw(Path(sys.argv[1]), int(sys.argv[2]))
    Path(f"{sys.argv[1]}-{distributed.rank()}").write_text(" ".join(map(str, numbers)))
