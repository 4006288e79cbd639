"""Checkpoints: a fit by epochs as it stands, in a file from which it goes on to the bits of an uninterrupted one."""

import hashlib
import json
import os
import time
import warnings
from typing import Any

import numpy as np

from fastbp import files
from fastbp.files import ModelFileError
from fastbp.layout import CURSOR
from fastbp.training import is_sparse

# What the epochs of a fit leave on its estimator.
KEPT = (
    "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_",
    "validation_loss_curve_", "_no_improvement_count", "_best_coefs", "_best_intercepts", "_learning_rate",
    "_learning_rate_start", "_dropout_seed", "level_",
)  # fmt: skip
NEEDED = {
    "parameters", "cursor", "record", "order", "own", "initial", "drawn", "fingerprint", "stopped", "n_iter_", "t_",
    "level_",
}  # fmt: skip
# Parameters that may change between the parts of a fit: they change no epoch, but which is the last one.
FREE = ("max_iter", "verbose", "n_jobs")


class Checkpoint:
    """The file of a fit. What another fit has left there, or something else, is an error, and stays.

    Parameters
    ----------
    path : str or Path
    every : float
        Seconds from one writing to the next; 0 writes after each call.
    """

    def __init__(self, path, every):
        if not (isinstance(every, (int, float, np.integer, np.floating)) and not isinstance(every, bool) and every >= 0):
            raise ValueError(f"every must be seconds, >= 0, got {every!r}")
        self.path, self.every, self.saved = path, every, dict[str, Any]()
        self.initial: Any = None  # the fit's random state at its start
        self.next = time.monotonic() + every
        if os.path.exists(path):
            with files.reading(path) as contents:
                contents.check_format(files.CHECKPOINT)
                state = {name: files.decode(value, contents) for name, value in contents.header["state"].items()}
                files.require(state.keys() >= NEEDED, f"{', '.join(sorted(NEEDED - state.keys()))} must be there")
                self.saved = state

    def begin(self, est, random_state):
        """The random state of a fit at its start, which is that of the one that goes on."""
        if self.saved and est.random_state is None:  # that of all of numpy is not this fit's to set back
            random_state = np.random.RandomState()
            random_state.set_state(self.saved["initial"])
        self.initial = random_state.get_state(legacy=False)
        self.require(not self.saved or same(self.initial, self.saved["initial"]))
        return random_state

    def identify(self, est, rows, validation, free=FREE):
        """Compare what is to be trained with what was; a ValueError where it is something else."""
        self.fingerprint = fingerprint(est, rows, validation, free)
        self.require(not self.saved or self.saved["fingerprint"] == self.fingerprint)
        if self.saved and self.saved["n_iter_"] > est.max_iter:
            raise ValueError(f"max_iter must be at least {self.saved['n_iter_']}, the epochs so far, got {est.max_iter}")

    def require(self, known):
        """Raise the ValueError of a file that is of something else unless it is known to be of this fit."""
        if not known:
            raise ValueError(
                f"checkpoint {os.fspath(self.path)!r} is of other data or parameters: name another file, or remove it"
            )

    def restore(self, epochs):
        """Let a training be where the file has it; whether it has come to its end. Without one, make sure of the file."""
        epochs.run.due = lambda: time.monotonic() >= self.next
        if not self.saved:
            self.save(epochs)
            return False
        est, run, saved = epochs.est, epochs.run, self.saved
        self.saved = {}  # which may be large
        try:
            if saved["level_"] != est.level_:
                raise ValueError(f"it was trained on level {saved['level_']}, and this is {est.level_}")
            if saved["record"].shape[1] != run.record.shape[1]:
                raise ValueError("it was written by another fastbp")
            for mine, its in zip((run.params, *run.moments), saved["parameters"], strict=True):
                mine[:] = its
            run.cursor[:], run.record, run.before = saved["cursor"], saved["record"], saved["n_iter_"]
            if saved["order"] is not None:
                run.order = saved["order"][np.newaxis]
            epochs.take_own(saved["own"])
            epochs.random_state.set_state(saved["drawn"])
            vars(est).update({name: saved[name] for name in KEPT if name in saved})  # last: now it has learnt
            return bool(saved["stopped"])
        except (ValueError, TypeError, KeyError) as error:
            raise ModelFileError(f"{self.path} cannot be gone on from: {error}") from error

    def offer(self, epochs):
        """Write, if it is time to, but not while the kernel's scratch memory holds something that is needed.

        That is part of a gradient within a batch, and packed rows within an epoch that is not shuffled.
        """
        cursor = epochs.run.cursor
        whole = cursor[CURSOR.block] == 0 or (epochs.est.shuffle and cursor[CURSOR.batch] == cursor[CURSOR.row])
        if whole and epochs.run.due():
            self.try_to_save(epochs)

    def try_to_save(self, epochs, stopped=False):
        """Write; where the system does not let it, training is worth more than a file, and it is tried again."""
        try:
            self.save(epochs, stopped)
        except OSError as error:
            self.next = time.monotonic() + self.every
            warnings.warn(f"checkpoint {os.fspath(self.path)!r} could not be written: {error}", stacklevel=2)

    def save(self, epochs, stopped=False):
        """Write: the file is the one before or this one, whatever happens."""
        est, run = epochs.est, epochs.run
        position, cursor = run.cursor[CURSOR.block] > 0, run.cursor.copy()
        cursor[CURSOR.epoch], cursor[CURSOR.packed] = run.passes % run.chunks, 0
        state = {name: vars(est)[name] for name in KEPT if name in vars(est)} | {
            "parameters": [run.params, *run.moments], "cursor": cursor, "record": run.recorded_partly().copy(),
            "order": run.order[-1] if run.draw and position else None, "own": epochs.own(),
            "initial": self.initial, "drawn": epochs.random_state.get_state(legacy=False),
            "fingerprint": self.fingerprint, "stopped": stopped,
        }  # fmt: skip
        arrays: dict[str, np.ndarray] = {}
        encoded = {name: files.encode(name, value, arrays) for name, value in state.items()}
        header = {"format": files.CHECKPOINT, "format_version": files.VERSIONS[files.CHECKPOINT][0], "state": encoded}
        files.write(self.path, header, arrays)
        self.next = time.monotonic() + self.every


def same(one, other):
    """Whether two states of random numbers are alike."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return np.array_equal(one, other)


def fingerprint(est, rows, validation, free):
    """Digest of an estimator's parameters, but for free ones, and of all that it is to learn from."""
    found, arrays = hashlib.blake2b(digest_size=16), dict[str, np.ndarray]()
    params = {name: value for name, value in est.get_params(deep=False).items() if name not in free}
    if type(est.random_state) is not int:
        del params["random_state"]
    params["classes"] = getattr(est, "classes_", None)
    try:
        encoded = {name: files.encode(name, value, arrays) for name, value in params.items()}
    except TypeError as error:
        raise TypeError(f"checkpoint needs parameters that a file can hold: {error}") from None
    found.update(json.dumps([type(est).__name__, encoded], sort_keys=True).encode())
    for name, array in arrays.items():
        add(found, name, array)
    for all_rows in (rows, validation):
        for number, part in enumerate(all_rows or ()):
            matrices = (part.X.data, part.X.indices, part.X.indptr) if is_sparse(part.X) else (part.X,)
            for place, array in enumerate((*matrices, part.Y, part.weights)):
                add(found, f"{number} {place}", array)
    return found.hexdigest()


def add(found, name, array):
    """Add an array, or None, to a digest."""
    found.update(f"{name} {getattr(array, 'dtype', '')} {np.shape(array)}".encode())
    if array is not None:
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def checkpoint_for(est, checkpoint, every):
    """The checkpoint that a fit is asked for, or None."""
    if checkpoint is None:
        return None
    if est.solver == "lbfgs":
        raise ValueError(f"checkpoint needs solver 'sgd' or 'adam', got {os.fspath(checkpoint)!r} with solver='lbfgs'")
    for name, value in {"warm_start": False, "max_seconds": None, "n_estimators": 1}.items():
        if getattr(est, name, value) != value:
            raise ValueError(f"checkpoint needs {name}={value}, got {os.fspath(checkpoint)!r} with {getattr(est, name)}")
    return Checkpoint(checkpoint, every)
