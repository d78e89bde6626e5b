"""How a run is stopped: a signal is noted, and the run ends where its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import lightning as L

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopBetweenSteps(L.Callback):
    """Ends a run that was asked to stop before its next step; the step or validation in work is finished first.

    The second signal ends it at once: what is in work is lost then, and the run goes on from its last checkpoint.
    Comes last among a trainer's callbacks: where it stops, the others are done with the step.

    Args:
        every: steps between two validations.
        notify: is told that a validation is finished first, which may take long.
    """

    def __init__(self, *, every: int, notify: Callable[[str], None] | None = None) -> None:
        self.every = every
        self.notify = notify
        self.is_asked = False
        """Whether the run is to end."""
        self.in_work = False
        """Whether a step, or the validation that belongs to it, has begun and has not ended."""
        self._step = 0
        self._has_told = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals in the block; only the main thread gets any."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._listen()
        try:
            yield
        finally:
            if _is_main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen again: Lightning has put a handler of its own in the place of ours."""
        self._step = trainer.global_step
        self._listen()

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        """End the run, if it is to end and no step is in work.

        Raises:
            KeyboardInterrupt: it ends.
        """
        if self.is_asked and not self.in_work:
            raise KeyboardInterrupt
        self.in_work = True

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        """The step has ended with its last batch, unless a validation belongs to it."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.in_work = is_validated(trainer, step=self._step, every=self.every)

    def on_validation_batch_start(self, *args: object) -> None:
        """Say why the run does not end yet."""
        if self.is_asked and not self._has_told and self.notify is not None:
            self._has_told = True
            self.notify("stops when this validation is done; another signal stops it at once, and loses this step.")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The step has ended."""
        self.in_work = False

    def ask(self) -> None:
        """End the run before the next step."""
        self.is_asked = True

    def _listen(self) -> None:
        if not _is_main_thread():
            return
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells have it for what runs beside them
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.ask()


def is_validated(trainer: L.Trainer, *, step: int, every: int) -> bool:
    """Whether a validation belongs to `step`, where there is one every `every` steps."""
    return bool(trainer.enable_validation) and step % min(every, trainer.max_steps) == 0


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
