"""Whether two checkouts of the project take the same steps, bit for bit: the guard of a change that moves code alone.

    python asv_bench/same_iterates.py BASE [OTHER]

Every optimizer, with each value of each of its named options, every route of Gauss-Newton, and every network that they take
make five steps in float64 (the perceptron in float32 too) in either checkout, in one environment with one BLAS thread. Cases
whose steps differ, or that one checkout alone refuses, are listed and make the exit code 1; sentences may change.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

STEPS = 5
WORDS = {  # by field; where an optimizer does not know a word, it is refused
    "accumulate": ("sum",),
    "bias": ("separate", "none"),
    "block": ("all",),
    "curvature": ("empirical_fisher",),
    "diagonal": ("adam",),
    "fisher": ("type-2", "empirical"),
    "forcing": ("superlinear",),
    "form": ("sum", "average", "stochastic"),
    "gram_dtype": ("float32",),
    "inner": ("chebyshev", "richardson", "double product"),
    "inner_dtype": ("float32",),
    "inputs": ("bound",),
    "inverse": ("exact", "rescaled"),
    "layers": ("cyclic", "all"),
    "layout": ("in", "chunk"),
    "orth": ("newton_schulz",),
    "q": (1, float("inf")),
    "refresh": ("eigh",),
    "reshape": ("matrix",),
    "residual_dtype": ("float64",),
    "root": ("newton",),
    "scale": ("shape", "none"),
    "second_moment_of": ("mean",),
    "solver": ("lsqr", "craig"),
    "start": ("first", "zero"),
    "statistic": ("sample",),
    "stop": ("progress",),
}
NUMBERS = {"weight_decay": 0.01, "momentum": 0.3, "damping": 0.05, "trust_region": 1e-3, "statistics_every": 2,
           "inverse_every": 2, "polish": 1, "rank": 2, "relative_damping": 0.1, "memory": 3}  # fmt: skip
PLANS = (
    "exact",
    "sketch",
    "kernel",
    "class-averaged",
    "per-class",
    "frozen",
    "nystrom",
    "cg",
    "kfac",
    "diagonal",
    "parameter-cg",
)
WITH_PLAN = ({}, {"momentum": 0.5}, {"reuse": False}, {"inner_dtype": "float32"}, {"solver": "lsqr"})


def problems():
    """Name → (objective, params, batch)."""
    import numpy as np

    from nearlin import nn

    draw = np.random.default_rng(0)
    x, labels = draw.standard_normal((24, 6)), draw.integers(0, 3, 24)
    images = draw.standard_normal((10, 2, 6, 6))
    phi = nn.Elementwise(nn.activation("tanh"))
    net = nn.Sequential(
        (nn.Conv2d(2, 4, 3, 1, 1, bias=False), nn.BatchNorm(4), phi, nn.MaxPool(2), nn.Flatten(), nn.Dense(36, 3)),
        shape=(2, 6, 6),
    )
    plain = nn.Sequential((nn.Conv2d(2, 4, 3, 2, 1), phi, nn.Flatten(), nn.Dense(36, 3)), shape=(2, 6, 6))
    softmax, squared = nn.SoftmaxCrossEntropy(), nn.SquaredLoss()
    target = np.tanh(x @ draw.standard_normal((6, 4)))
    cases = {
        "wide": (nn.TwoLayer(6, 128), squared, x, target[:, 0]),
        "perceptron": (nn.MLP((6, 7, 5, 3), "tanh"), softmax, x, labels),
        "regression": (nn.MLP((6, 9, 4), "sigmoid"), squared, x, target),
        "over": (nn.MLP((6, 40, 4), "relu"), squared, x, target),
        "autoencoder": (nn.MLP((6, 5, 6), "sigmoid"), nn.SigmoidCrossEntropy(), x, 1 / (1 + np.exp(-x))),
        "convolution": (plain, softmax, images, labels[:10]),
        "normalised": (net, softmax, images, labels[:10]),
    }
    made = {}
    for name, (network, loss, inputs, y) in cases.items():
        made[name] = nn.Objective(network, loss), network.init(3, inputs), (inputs, y)
    inputs, network = x.astype(np.float32), cases["perceptron"][0]
    made["perceptron, float32"] = nn.Objective(network, softmax), network.init(3, inputs), (inputs, labels)
    return made


def options(cls):
    """Settings of one optimizer: its defaults, and each option alone at each of its other values."""
    yield {}
    for field in dataclasses.fields(cls):
        values = WORDS.get(field.name, ())
        if isinstance(field.default, bool):
            values = (not field.default,)
        elif field.name in NUMBERS:
            values = (NUMBERS[field.name],)
        yield from ({field.name: value} for value in values if value != field.default)


def settings():
    """(name of an optimizer, its options), all of them."""
    import nearlin as nl

    for name in sorted(nl.optim.__all__):
        yield from ((name, given) for given in options(getattr(nl.optim, name)))
    yield from (("GaussNewton", {"plan": plan, **given}) for plan in PLANS for given in WITH_PLAN)


def digest(params):
    import numpy as np

    return hashlib.sha256(b"".join(np.ascontiguousarray(W).tobytes() for W in params)).hexdigest()[:16]


def run(name, given, problem):
    """Digests of the parameters after a warm start and each step, with what the step says; or that it is refused."""
    import nearlin as nl

    objective, params, batch = problem
    try:
        opt = getattr(nl.optim, name)(**given)
        state, said = opt.init(params, objective), []
        if hasattr(opt, "warm_start"):
            state = opt.warm_start(params, state, objective, [batch, batch], 7)
        for t in range(STEPS):
            params, state, info = opt.step(params, state, objective, batch, key=t)
            said.append([digest(params), repr(float(info.loss)), str(info.reason)])
            if getattr(info, "statistics", None) is not None:
                objective = objective.observe(info.statistics)
    except Exception as error:
        said = ["refused", type(error).__name__]
    return said


def record():
    """{case: what it said} of the checkout that is imported."""
    import warnings

    warnings.simplefilter("ignore")
    made = problems()
    return {
        f"{problem}: {name}({', '.join(f'{k}={v!r}' for k, v in given.items())})": run(name, given, made[problem])
        for name, given in settings()
        for problem in made
    }


def recorded(checkout):
    """What `record` gives in a process that imports ``checkout``."""
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **one, "PYTHONPATH": str(Path(checkout).resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, __file__, "--record"], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main(base, other="."):
    before, after = recorded(base), recorded(other)
    differ = [case for case in before | after if before.get(case) != after.get(case)]
    for case in differ:
        print(f"{case}\n  {base}: {before.get(case)}\n  {other}: {after.get(case)}")
    refused = sum(said[0] == "refused" for said in after.values())
    print(f"{len(before | after)} cases, {refused} of them refused, {len(differ)} differ")
    return bool(differ)


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        print(json.dumps(record()))
    elif 2 <= len(sys.argv) <= 3:
        sys.exit(main(*sys.argv[1:]))
    else:
        sys.exit(__doc__)
