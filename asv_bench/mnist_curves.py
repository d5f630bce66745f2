"""The first epochs on MNIST beside the published ones: ``python asv_bench/mnist_curves.py FOLDER [--epochs 5]``.

FOLDER holds the four files of MNIST; nothing is downloaded. The auto-encoder 784-1000-500-250-30 mirrored, ReLU, binary
cross-entropy summed over pixels, batches of 1000, float32, each method at the settings of its authors' demonstration notebook,
whose training losses after epochs 1, 3, 5, 10, 20 and 50 stand in `PUBLISHED` (read from the notebooks that are committed to
renyiryry/tnt_neurips_2021, achrafba96/mbf and renyiryry/kbfgs_neurips2020_public; one run each). Weights, batches and drawn
labels differ from theirs, so a few per cent of deviation say nothing.
"""

import argparse

from nearlin.experiments import train

EPOCHS = (1, 3, 5, 10, 20, 50)
PUBLISHED = {  # method: optimizer, settings, losses
    "SGD with momentum": ("sgd", {"lr": 0.003}, (197.6, 184.5, 169.5, 125.7, 98.6, 75.6)),
    "Adam": (
        "adam",
        {"lr": 1e-4, "epsilon_hat": 1e-4, "second_moment_of": "mean"},
        (208.7, 196.7, 187.7, 113.9, 88.8, 68.4),
    ),
    "K-FAC": ("kfac", {"lr": 0.003, "damping": 0.3, "pi": False}, (504.4, 202.1, 136.5, 84.7, 66.7, 59.6)),
    "Shampoo": (
        "shampoo",
        {"lr": 3e-4, "damping": 3e-4, "early": False, "root": "newton"},
        (433.5, 211.3, 188.0, 110.3, 75.5, 59.5),
    ),
    "TNT": ("tnt", {"lr": 1e-4, "damping": 0.1}, (191.2, 148.1, 105.5, 75.9, 63.2, 56.4)),
    "MBF, as released": (
        "mini-block-fisher",
        {"lr": 1e-5, "damping": 3e-4, "layout": "chunk"},
        (172.8, 113.7, 86.5, 67.5, 59.7, 55.5),
    ),
    "K-BFGS": ("kbfgs", {"lr": 0.3, "damping": 0.3, "l2": 1e-5}, (169.0, 85.2, 68.0, 59.8, 56.3, 53.8)),
    "K-FAC of the K-BFGS authors": (
        "kfac",
        {"lr": 1.0, "damping": 3.0, "pi": False, "form": "average", "l2": 1e-5},
        (183.2, 99.7, 74.0, 61.6, 56.7, 53.7),
    ),
}


def losses(folder, optimizer, settings, epochs):
    """Training losses at the ends of epochs."""
    given = {name: value for name, value in settings.items() if name != "l2"}
    options = {"optimizer": optimizer, "settings": tuple(given.items()), "data_dir": str(folder), "epochs": epochs}
    options |= {"l2": settings["l2"]} if "l2" in settings else {}
    records = train("mnist-ae", **options).records
    return [record["loss_after"] for record in records if record["loss_after"] is not None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="with the four files of MNIST")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", default="", help="first letters of methods, separated by commas")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error(f"--epochs is {options.epochs}; expected at least 1")
    words = [word.strip().lower() for word in options.only.split(",")]
    if not any(name.lower().startswith(word) for word in words for name in PUBLISHED):
        parser.error(f"--only {options.only}: expected first letters of {', '.join(PUBLISHED)}")
    print(f"{'method':<30}{'epoch':>6}{'loss':>10}{'published':>11}{'deviation':>11}")
    for name, (optimizer, settings, published) in PUBLISHED.items():
        if not any(name.lower().startswith(word) for word in words):
            continue
        try:
            found = losses(options.folder, optimizer, settings, options.epochs)
        except ValueError as error:  # a folder that is none, or holds other files
            parser.exit(2, f"{error}\n")
        for epoch, theirs in zip(EPOCHS, published, strict=True):
            if epoch <= options.epochs:
                ours = found[epoch - 1] if epoch <= len(found) else float("nan")  # a run that ended early
                print(f"{name:<30}{epoch:>6}{ours:>10.1f}{theirs:>11.1f}{ours / theirs - 1:>+11.1%}", flush=True)


if __name__ == "__main__":
    main()
