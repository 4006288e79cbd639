"""One fit on many processes, and many fits: Fashion-MNIST on clusters of dask and ray on this machine.

Rows are those of Debian's package dataset-fashion-mnist. What is compared is measured in turns.

scaling   a fit with one worker and with two, beside plain trainings in one process and in two
accuracy  on test rows, of a local fit and of as many rounds
model     the formula of a round's time in `fastbp.dask`, beside a simulation with the figures of this machine
search    GridSearchCV in threads, and under the backends of dask and ray
"""

import argparse
import collections
import functools
import heapq
import itertools
import math
import statistics
import time
import warnings

import dask.array as da
import distributed
import fashion
import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV

from fastbp import MLPClassifier
from fastbp.dask import FAN_IN, DaskMLPClassifier

SHARDS, UNITS, BATCH = 8, 128, 50
# From one machine to another: 1 and 10 Gbit/s.
BANDWIDTHS = (1.25e8, 1.25e9)


def cluster_of(workers):
    """A client of a cluster of so many processes, with a thread each."""
    cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs="ERROR")
    return distributed.Client(cluster)


def spread_out(client, *arrays):
    """Arrays whose shards are on the workers of a client, as many on each."""
    lazy = [da.from_array(one, chunks=(len(one) // SHARDS, *one.shape[1:])) for one in arrays]
    lazy = client.persist(lazy)
    distributed.wait(lazy, timeout=600)
    return lazy


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain(X, y, epochs):
    """What a process without a cluster does: local epochs."""
    warnings.simplefilter("ignore")
    MLPClassifier(UNITS, batch_size=BATCH, max_iter=epochs, random_state=0, tol=0).fit(X, y)


def scaling(train, rounds, turns):
    """Seconds of a fit by the number of workers, and of as many epochs in as many processes."""
    clients = {workers: cluster_of(workers) for workers in (1, 2)}
    data = {workers: spread_out(client, *train) for workers, client in clients.items()}
    half = [one[: len(one) // 2] for one in train]
    with distributed.Client(
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    ) as processes:
        names = list(processes.nthreads())
        whole = processes.scatter(train, workers=names[:1])
        halves = [processes.scatter(half, workers=[name]) for name in names]

        def fit(workers):
            est = DaskMLPClassifier(UNITS, client=clients[workers], max_iter=rounds, random_state=0, tol=0)
            est.fit(*data[workers])
            return est

        def alone(given):
            tasks = [processes.submit(plain, *one, rounds, workers=[name], pure=False) for one, name in given]
            distributed.wait(tasks, timeout=3600)

        found = {"one worker": lambda: fit(1), "two workers": lambda: fit(2),
                 "one process": lambda: alone([(whole, names[0])]),
                 "two processes": lambda: alone(list(zip(halves, names, strict=True)))}  # fmt: skip
        for work in found.values():
            work()
        seconds = {name: [] for name in found}
        for _ in range(turns):
            for name, work in found.items():
                seconds[name].append(seconds_of(work))
    for one, two in (("one worker", "two workers"), ("one process", "two processes")):
        ratios = [a / b for a, b in zip(seconds[one], seconds[two], strict=True)]
        print(
            f"{one} {statistics.median(seconds[one]):.2f} s, {two} {statistics.median(seconds[two]):.2f} s, "
            f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f} in {turns} turns)"
        )
    return clients, data


def accuracy(client, data, test, train, seeds):
    """Shares of right test rows."""
    for rounds in (10, 20, 30):
        local, found = [], {"nesterov": [], "average": []}
        for seed in range(seeds):
            settings = {"hidden_layer_sizes": UNITS, "max_iter": rounds, "random_state": seed, "n_iter_no_change": 99}
            local.append(100 * MLPClassifier(**settings).fit(*train).score(*test))
            for outer, scores in found.items():
                est = DaskMLPClassifier(**settings, client=client, outer=outer).fit(*data)
                scores.append(100 * est.to_local().score(*test))
        told = ", ".join(f"{outer} {np.mean(scores):.2f}" for outer, scores in found.items())
        print(f"{rounds} epochs or rounds, mean of {seeds} seeds: local {np.mean(local):.2f}%, {told}")


def nothing(_=None):
    """A task that takes no time."""


def figures(client, train):
    """Seconds of a shard's epoch, of the scheduler per task, and from a task's end to the start of the next."""
    rows = len(train[0]) // SHARDS
    shard = client.scatter([one[:rows] for one in train])
    client.submit(plain, *shard, 1, pure=False).result(timeout=600)
    t = statistics.median(client.submit(seconds_of_plain, *shard, 5, pure=False).result(timeout=600) for _ in range(5))
    count, chain = 2000, 50
    c = statistics.median(
        seconds_of(lambda: distributed.wait(client.map(nothing, range(count), pure=False), timeout=600)) / count
        for _ in range(3)
    )

    def chained():
        future = client.submit(nothing, pure=False)
        for _ in range(chain):
            future = client.submit(nothing, future, pure=False)
        distributed.wait(future, timeout=600)

    length = statistics.median(seconds_of(chained) / chain for _ in range(3))
    return t, c, length


def seconds_of_plain(X, y, epochs):
    return seconds_of(lambda: plain(X, y, epochs)) / epochs


def formula(s, w, t, c, length, transfer):
    """Seconds of a round, as the docstring of `fastbp.dask` has them."""
    levels = math.log(s, FAN_IN)
    sent = 1 + math.log2(w) + (FAN_IN - 1) * levels
    return max(math.ceil(s / w) * t, s * c) + s * c / (FAN_IN - 1) + (2 + levels) * length + sent * transfer


def simulated(s, w, t, c, length, transfer):
    """Seconds of a round, event by event.

    A scheduler takes half of c to send a task out, and half when it has ended; half of `length` passes until a message is
    there. A worker does a task at a time, and first fetches what others have; who has a copy of the weights serves one other
    at a time.
    """
    events, number, busy, free, copies = [], itertools.count(), 0.0, [0.0] * w, []

    def at(moment, event):
        heapq.heappush(events, (moment, next(number), event))

    def scheduled(moment, event):
        """What the scheduler does as soon as it can."""
        nonlocal busy
        busy = max(busy, moment) + c / 2
        at(busy + length / 2, event)

    def train(worker, shard):
        def run(moment):
            start = max(moment, free[worker])
            if shard < w:  # its first: the weights have to come
                if copies:
                    holder = heapq.heappop(copies)
                    start = max(start, holder) + transfer
                    heapq.heappush(copies, start)
                heapq.heappush(copies, start)
            free[worker] = start + t
            at(free[worker] + length / 2, lambda moment: scheduled(moment, lambda now: ended(0, shard, now)))

        return run

    done, last = collections.Counter(), 0.0

    def ended(depth, place, moment):
        nonlocal last
        last, group, width = moment, place // FAN_IN, -(-s // FAN_IN**depth)
        if width == 1:
            return
        size = min(FAN_IN, width - group * FAN_IN)
        done[depth, group] += 1
        if done[depth, group] == size:

            def add(now):
                worker = place * FAN_IN**depth % w
                free[worker] = max(now, free[worker]) + (size - 1) * transfer
                at(free[worker] + length / 2, lambda now: scheduled(now, lambda now: ended(depth + 1, group, now)))

            scheduled(moment, add)

    for shard in range(s):
        scheduled(0.0, train(shard % w, shard))
    while events:
        moment, _, event = heapq.heappop(events)
        event(moment)
    return last + transfer


def model(clients, data, train):
    """The formula, beside the simulation and, for the workers that there are, the clock."""
    t, c, length = figures(clients[2], train)
    size = 8 * sum(a * b + b for a, b in ((784, UNITS), (UNITS, 10)))
    print(f"t {1e3 * t:.1f} ms, c {1e3 * c:.2f} ms, l {1e3 * length:.1f} ms, P {size / 1e6:.2f} MB")
    for workers, client in clients.items():
        est = DaskMLPClassifier(UNITS, client=client, random_state=0, tol=0)
        few, many = (seconds_of(functools.partial(est.set_params(max_iter=n).fit, *data[workers])) for n in (2, 22))
        numbers = SHARDS, workers, t, c, length, size / 2e9
        told = f"formula {1e3 * formula(*numbers):.0f} ms, simulation {1e3 * simulated(*numbers):.0f} ms"
        print(f"{SHARDS} shards on {workers}: {told}, measured {1e3 * (many - few) / 20:.0f} ms")
    for bandwidth, s in itertools.product(BANDWIDTHS, (100, 400)):
        numbers = s, 100, t, c, length, size / bandwidth
        one, other = formula(*numbers), simulated(*numbers)
        told = f"formula {1e3 * one:.0f} ms, simulation {1e3 * other:.0f} ms"
        print(f"{s} shards on 100 at {bandwidth * 8e-9:g} Gbit/s: {told}, {s * t / other:.0f} times as fast as one process")


def search(client, train, turns):
    """Seconds of a search by backend; equal scores."""
    X, y = (one[:12_000] for one in train)
    found = GridSearchCV(
        MLPClassifier(64, max_iter=5, random_state=0), {"alpha": [1e-4, 1e-3, 1e-2, 0.1]}, cv=3, refit=False
    )
    backends = {"serial": ("threading", 1), "threading": ("threading", 2), "dask": ("dask", 2)}
    try:
        import ray
        from ray.util.joblib import register_ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        register_ray()
        backends["ray"] = ("ray", 2)
    except ImportError:
        print("ray is not installed")
    seconds, scores = {name: [] for name in backends}, {}
    with client.as_current():
        for turn, (name, (backend, n_jobs)) in itertools.product(range(turns + 1), backends.items()):
            with joblib.parallel_config(backend, n_jobs=n_jobs):
                took = seconds_of(lambda n_jobs=n_jobs: found.set_params(n_jobs=n_jobs).fit(X, y))
            scores[name] = found.cv_results_["mean_test_score"].tobytes()
            if turn:
                seconds[name].append(took)
    told = ", ".join(f"{name} {statistics.median(times):.2f} s" for name, times in seconds.items())
    print(f"12 fits: {told}; equal scores: {len({*scores.values()}) == 1}")


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="of what is compared (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="of a fit that is timed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of fits whose accuracy is told (default: %(default)s)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = fashion.rows("train"), fashion.rows("t10k")
    clients, data = scaling(train, given.rounds, given.turns)
    model(clients, data, train)
    search(clients[2], train, given.turns)
    accuracy(clients[2], data[2], test, train, given.seeds)
    for client in clients.values():
        client.close()
        client.cluster.close()


if __name__ == "__main__":
    main()
