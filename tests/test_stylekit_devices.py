"""Device choice, precision and memory without a GPU; hardware is simulated."""

import pytest
import torch
from torch import nn

from stylekit import devices

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_the_automatic_device_is_the_fastest_available(no_gpu, monkeypatch):
    assert devices.choose_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.choose_device("auto") == torch.device("cuda", 0)


def test_each_process_of_torchrun_gets_its_own_gpu(two_gpus, monkeypatch):
    for local_rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        assert devices.choose_device("cuda") == torch.device("cuda", local_rank)
    assert devices.choose_device("cuda:0") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toaster", "--device toaster: expected auto, cpu, cuda, cuda:N or mps"),
        ("meta", "--device meta: expected auto, cpu, cuda, cuda:N or mps"),
        ("", "--device : expected auto, cpu"),
        ("cuda", "--device cuda: PyTorch finds no CUDA device on this machine; try --device cpu"),
        ("cuda:1", "--device cuda:1: PyTorch finds no CUDA device on this machine; try --device cpu"),
        ("mps", "--device mps: not available on this machine; try --device cpu"),
    ],
)
def test_a_device_that_does_not_exist_is_refused(no_gpu, name, message):
    with pytest.raises(ValueError) as raised:
        devices.choose_device(name)
    assert message in str(raised.value)


def test_a_gpu_beyond_the_last_is_refused(two_gpus):
    with pytest.raises(ValueError, match=r"--device cuda:2: this machine has 2 CUDA device\(s\)"):
        devices.choose_device("cuda:2")


def test_bfloat16_is_automatic_on_gpus_since_ampere_and_on_cpus_with_amx(monkeypatch):
    for capability in ((7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert devices.use_bfloat16("auto", torch.device("cuda", 0)) is (capability >= (8, 0))
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert [devices.use_bfloat16(switch, CPU) for switch in ("auto", "on", "off")] == [amx, True, False]
    assert devices.use_bfloat16("auto", torch.device("mps")) is False


@pytest.mark.parametrize(
    ("device", "amx", "expected"),
    [
        ("cpu", False, torch.contiguous_format),
        ("cpu", True, torch.channels_last),
        ("cuda", False, torch.channels_last),
        ("mps", False, torch.channels_last),
    ],
)
def test_the_memory_format_is_the_fastest_of_the_device(monkeypatch, device, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert devices.memory_format(torch.device(device)) == devices.memory_format(device) == expected


@pytest.mark.parametrize("amx", [False, True])
def test_networks_and_batches_get_the_memory_format_of_the_device(monkeypatch, amx):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    weight = devices.to_device(nn.Conv2d(3, 4, 3), CPU).weight
    for moved in (weight, devices.to_device(torch.rand(2, 3, 8, 8), CPU)):
        assert moved.is_contiguous(memory_format=torch.channels_last) is amx


def test_the_number_of_threads_can_be_set_and_left_alone():
    before = torch.get_num_threads()
    try:
        devices.set_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        devices.set_threads(None)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
    ],
)
def test_an_error_that_means_too_little_memory_is_recognized(error):
    assert devices.is_out_of_memory(error)
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert devices.is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("memory"), OSError("out of memory")]
)
def test_other_errors_do_not_count_as_out_of_memory(error):
    assert not devices.is_out_of_memory(error)
