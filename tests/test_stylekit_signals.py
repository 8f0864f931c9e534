import signal
import threading

import pytest

from stylekit.training.signals import SIGNALS, collect_signals, ignore_signals


@pytest.fixture(autouse=True)
def usual_handlers():
    """The handlers of a fresh Python, restored after the test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_collected_and_the_program_continues(number):
    with collect_signals() as caught:
        assert caught == []
        signal.raise_signal(number)
        assert caught == [number]


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with collect_signals() as caught:
            signal.raise_signal(signal.SIGHUP)
        assert caught == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_has_its_usual_effect():
    with pytest.raises(KeyboardInterrupt), collect_signals() as caught:
        signal.raise_signal(signal.SIGINT)
        assert caught == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)


def test_the_previous_handlers_are_restored_even_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), collect_signals():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_signals_are_left_to_the_host():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def collect():
        with collect_signals() as caught:
            seen.append((caught, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=collect)
    thread.start()
    thread.join()
    assert seen == [([], before)] and signal.getsignal(signal.SIGINT) == before


def test_workers_ignore_signals():
    ignore_signals(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
