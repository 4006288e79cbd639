"""scikit-learn's callbacks, where the installed scikit-learn has them."""

import sklearn

__all__ = ["CallbackSupportMixin", "Task", "with_callbacks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's class of this name, which came with version 1.9."""

        def set_callbacks(self, *callbacks):
            """Raise an ImportError: callbacks need scikit-learn 1.9 or later."""
            raise ImportError(f"callbacks need scikit-learn >= 1.9, got {sklearn.__version__}")

    def with_callbacks(method):
        """Return the method as it is."""
        return method


class Task:
    """A fit as callbacks see it: one task, with a subtask for each of at most `most` epochs; they see no `single` one."""

    def __init__(self, est, X, y, sample_weight, most, single):
        # nothing is done per epoch for the many who set no callbacks
        self.watched = not single and bool(getattr(est, "_skl_callbacks", ()))
        if self.watched:
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            self.facts = {"estimator": est, "X": X, "y": y, "metadata": metadata}
            self.context = est._init_callback_context(max_subtasks=most)
            self.context.call_on_fit_task_begin(**self.facts)

    def begin(self):
        """An epoch begins."""
        if self.watched:
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.facts)

    def end(self):
        """An epoch ends, and the estimator has its weights; returns whether a callback wants to stop."""
        return self.watched and self.epoch.call_on_fit_task_end(**self.facts, reconstruction_attributes=self.fitted)

    def close(self):
        """The fit ends."""
        if self.watched:
            self.context.call_on_fit_task_end(**self.facts, reconstruction_attributes=self.fitted)

    def fitted(self):
        """What a copy of the estimator needs beside its present attributes to predict: weights of its own."""
        est = self.facts["estimator"]
        return {"coefs_": list(est.coefs_), "intercepts_": list(est.intercepts_)}
