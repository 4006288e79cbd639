"""Clusters of dask on this machine, whose workers are processes that import what the tests import."""

import contextlib
import os
import signal

import pytest
from processes import environment

# those who import them from here are left out without them
dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")


@contextlib.contextmanager
def cluster_of(*variables, threads=1):
    """A client of a cluster with a worker for each dict of environment variables, in processes that are restarted."""
    started = environment()["PYTHONPATH"]
    spec = {
        number: {
            "cls": distributed.Nanny,
            "options": {"nthreads": threads, "env": {"PYTHONPATH": started, **env}, "silence_logs": "CRITICAL"},
        }
        for number, env in enumerate(variables)
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0", "host": "127.0.0.1"}}
    with (
        distributed.SpecCluster(workers=spec, scheduler=scheduler, silence_logs="CRITICAL", asynchronous=False) as cluster,
        distributed.Client(cluster) as client,
    ):
        if variables:
            client.wait_for_workers(len(variables), timeout=60)
        yield client


def kill(client, number=0):
    """End the process of a worker at once: one by its number, of those that there are."""
    running = sorted(client.run(os.getpid).values())
    os.kill(running[number % len(running)], signal.SIGKILL)
